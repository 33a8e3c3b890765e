"""Pictures of validation cases: reference and prediction side by side on the slice that holds most of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overlay_figure(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, title: str) -> Figure:
    """Three planes of a case, each with the reference (dashed) and the prediction (solid).

    Args:
        image: (X, Y, Z), any unit, RAS array order.
        reference: (X, Y, Z) integers, 0 background.
        prediction: (X, Y, Z) integers, 0 background.
        title: one line above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    low, high = np.percentile(image, (1, 99))
    values = [value for value in np.union1d(np.unique(reference), np.unique(prediction)) if value > 0]
    names = ("sagittal", "coronal", "axial")
    for axis, (axes, name) in enumerate(zip(figure.subplots(1, 3), names, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        index = int(np.argmax((reference + prediction > 0).sum(axis=others)))
        plane, truth, found = (np.take(array, index, axis).T for array in (image, reference, prediction))
        axes.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
        for order, value in enumerate(values):
            for mask, style in ((truth == value, "dashed"), (found == value, "solid")):
                if mask.any() and not mask.all():
                    axes.contour(mask, [0.5], colors=[f"C{order}"], linestyles=style, linewidths=1.2)
        axes.set_title(f"{name} {index}", fontsize=9)
        axes.set_axis_off()
    return figure
