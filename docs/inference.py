"""Makes the pictures of inference.md, but for that of memory, which `benchmarks/inference.py` makes.

    python docs/inference.py [--output docs/images]

The streaming picture is drawn from the layout that inference itself takes. The seamless one is the shipped hippocampus
network on the MNI152 T1 template that nilearn ships (`pip install 'scanloom[demo]'`; Fonov 2011, NeuroImage 54).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch, Rectangle
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.layout import Layout, lean_layout
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.inference.tiling import plan_tiles
from scanloom.pipeline.inference.windows import window_grid
from torch import Tensor

SIZE, ROI, OVERLAP = (420, 250), (96, 96), 0.25
MOMENT = 7
"""The box in work when the streaming picture is taken."""
WRITTEN, HELD, WORK, AHEAD = "#cfe8d5", "#f2a65a", "#5b8def", "#f4f4f4"

REGION = (slice(20, 180), slice(40, 200), slice(50, 122))
"""Voxels of the template, 1 mm: the temporal lobes and what lies between."""
PLANE = 30
TILE = (144, 144, 72)


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images")
    folder = parser.parse_args().output
    streaming(folder / "inference_streaming.png")
    seamless(folder / "inference_seamless.png")


def streaming(path: Path) -> None:
    """A moment of the visit: what is written, what is held, what is in work."""
    grid = window_grid(SIZE, ROI, OVERLAP)
    layout = lean_layout(grid)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained", width_ratios=[1.5, 1])
    _moment(left, layout)
    _held(right)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _moment(axes: Axes, layout: Layout) -> None:
    axes.add_patch(Rectangle((0, 0), *SIZE, facecolor=AHEAD, edgecolor="black", zorder=-1))
    state = np.zeros(SIZE, int)  # 0 ahead, 1 held, 2 written
    boxes = list(layout.boxes())
    for box in boxes[: MOMENT + 1]:
        reached = tuple(slice(span.start, span.stop) for span in box)
        state[reached] = np.maximum(state[reached], 1)
    for box in boxes[:MOMENT]:
        state[tuple(slice(span.start, span.final) for span in box)] = 2
    image = np.array([[1, 1, 1, 0], *([*matplotlib.colors.to_rgb(each), 1] for each in (HELD, WRITTEN))])[state]
    axes.imshow(image.transpose(1, 0, 2), origin="lower", extent=(0, SIZE[0], 0, SIZE[1]))
    for number, box in enumerate(boxes):
        corner = [span.start for span in box]
        lengths = [span.length for span in box]
        work = number == MOMENT
        axes.add_patch(
            Rectangle(
                corner, *lengths, fill=work, facecolor=WORK if work else "none", alpha=0.75 if work else 0.6,
                edgecolor="black", linewidth=1.6 if work else 0.6, linestyle="-" if number <= MOMENT else ":",
            )
        )  # fmt: skip
        axes.text(corner[0] + 5, corner[1] + 5, str(number + 1), fontsize=8)
    axes.set(
        xlim=(-4, SIZE[0] + 4), ylim=(-4, SIZE[1] + 4), aspect="equal",
        xlabel="axis 0 (voxels): rows of windows, one after the other", ylabel="axis 1 (voxels)",
        title="Windows are visited row by row",
    )  # fmt: skip
    words = {WRITTEN: "final: reduced and written", HELD: "held for later windows", WORK: "in work", AHEAD: "to come"}
    handles = [Patch(facecolor=color, edgecolor="grey", label=word) for color, word in words.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=8, frameon=False)


def _held(axes: Axes) -> None:
    """MiB held for each class of a scan of 256 x 256 x n: ours and a whole volume of logits with its count map."""
    slices = np.array([128, 256, 384, 512, 768, 1024])
    grids = [window_grid((256, 256, int(n)), 96, 0.25) for n in slices]
    ours = [lean_layout(each).voxels * 4 / 2**20 for each in grids]
    whole = [np.prod(each.size) * 4 / 2**20 for each in grids]
    axes.plot(slices, whole, "o--", color="grey", label="the whole volume's logits")
    axes.plot(slices, ours, "o-", color=WORK, label="streamed")
    axes.set(xlabel="slices of 256 x 256, windows 96, overlap 0.25", ylabel="MiB held a class", title="What is held")
    axes.set_ylim(0)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.3)


@torch.inference_mode()
def seamless(path: Path) -> None:
    """One tile on the scan, and how far blended and seamless windows are from a pass over the whole region."""
    from nilearn.datasets import load_mni152_template

    values = np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float32)[REGION]
    image = torch.from_numpy((values - values.mean()) / values.std())[None, None]
    network = Predictor(find_bundle("hippocampus_mr_unet"), "cpu", precision="fp32").network
    whole = network(image)
    blended = StreamingInferer((40, 56, 40), overlap=0.5, mode="gaussian")(image, network)
    tiled = StreamingInferer(TILE, mode="seamless")(image, network)
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.8), layout="constrained")
    _tile(panels[0], image, network)
    drawn = None
    for axes, result, name in zip(panels[1:], (blended, tiled), ("blended windows", "seamless tiles"), strict=True):
        difference = (result - whole).abs().amax(dim=1)[0, :, :, PLANE]
        drawn = _plane(axes, difference.clamp(min=1e-7), cmap="magma", norm=LogNorm(1e-7, 10))
        axes.set_title(
            f"{name}, less one whole pass\n(largest difference here {float(difference.max()):.1g})", fontsize=10
        )
    assert drawn is not None
    figure.colorbar(drawn, ax=panels[1:], label="difference of the logits", shrink=0.8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tile(axes: Axes, image: Tensor, network: torch.nn.Module) -> None:
    size = tuple(image.shape[2:])
    _plane(axes, image[0, 0, :, :, PLANE], cmap="gray", vmin=-1.5, vmax=2.5)
    plan = plan_tiles(network, size, TILE)
    x, y = plan.axes[0][0], plan.axes[1][1]
    axes.add_patch(Rectangle((x.low, y.low), x.high - x.low, y.high - y.low, fill=False, edgecolor=HELD, linewidth=2))
    axes.add_patch(
        Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, facecolor=WORK, alpha=0.4, edgecolor=WORK)
    )
    for axis, line in zip(plan.axes[:2], (axes.axvline, axes.axhline), strict=True):
        for stretch in axis[1:]:
            line(stretch.start, color=WORK, linewidth=0.8, linestyle=":")
    words = {HELD: "what the network sees of one tile", WORK: "what is taken from it"}
    handles = [Patch(facecolor="none" if c == HELD else c, edgecolor=c, label=word) for c, word in words.items()]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=8, frameon=False)
    axes.set_title(f"{plan.windows} tiles of {' x '.join(map(str, plan.tile))} voxels", fontsize=10)


def _plane(axes: Axes, plane: Tensor, **look: object) -> matplotlib.image.AxesImage:
    axes.set(xticks=[], yticks=[])
    return axes.imshow(plane.T, origin="lower", **look)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
