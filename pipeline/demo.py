"""The main job on examples made on the spot: the hippocampi of the MNI152 template, as a DICOM MR study, and a picture
of cells.

The template is the one that the package nilearn ships (Fonov 2011, NeuroImage 54): a mean of 152 brains, nobody's scan.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .bundle import find_bundle
from .errors import PipelineError
from .progress import Report, Share, silent
from .segment import CaseResult, PredictOptions, predict
from .studies.mr_series import write_mr_series

HIPPOCAMPUS, MEMBRANE = "hippocampus_mr_unet", "membrane_em_resnetunet"
TEMPLATE = Path("datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
BOX_VOXELS = np.array([36, 52, 36])
CENTRES_RAS_MM = {"right": (28.0, -22.0, -13.0), "left": (-28.0, -22.0, -13.0)}
SEED = "scanloom demo"


def run_demo(output: Path, device: str = "auto", report: Report = silent) -> list[CaseResult]:
    """Make a study and a picture in `output`, segment the study into `output/results`, the picture into `output/cells`.

    Raises:
        PipelineError: nilearn is not installed, or `output` can not be written.
    """
    folders = write_study(output / "study")
    report(f"wrote a DICOM study of {len(folders)} series: {output / 'study'}")
    results = _predict(HIPPOCAMPUS, folders, output / "results", device, Share(report, 0.0, 0.6))
    picture = write_picture(output / "cells.png")
    report(f"drew a picture of cells: {picture}")
    return results + _predict(MEMBRANE, [picture], output / "cells", device, Share(report, 0.6, 1.0))


def _predict(bundle: str, inputs: list[Path], output: Path, device: str, report: Report) -> list[CaseResult]:
    return predict(find_bundle(bundle), PredictOptions(inputs, output, device=device, only_predicts=True), report)


def write_picture(file: Path) -> Path:
    """A picture of cells as an electron microscope makes them, 768 x 768, drawn by `made_up_cells`."""
    from PIL import Image

    from .made_up_cells import draw_cells

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cells()).save(file)
    except OSError as error:
        raise PipelineError(f"can not write the picture {file}: {error.strerror}. Choose another with -o.") from None
    return file


def write_study(folder: Path) -> list[Path]:
    """Both hippocampus regions of the template as sagittal MR series of one study, a subfolder each."""
    import nibabel as nib

    image = nib.load(_template())
    data = np.asarray(image.dataobj)
    folders = []
    for number, (side, centre) in enumerate(CENTRES_RAS_MM.items(), start=1):
        array, affine = _crop(data, image.affine, np.array(centre))
        sagittal = array.transpose(1, 2, 0)
        order = affine[:, [1, 2, 0, 3]]
        values = np.rint(sagittal * (1000.0 / max(float(data.max()), 1.0))).astype(np.int16)
        try:
            write_mr_series(
                folder / side,
                values,
                order,
                series_number=number,
                series_description=f"T1 hippocampus {side}",
                seed=SEED,
            )
        except OSError as error:
            raise PipelineError(
                f"can not write the example study to {folder}: {error.strerror}. Choose another with -o."
            ) from None
        folders.append(folder / side)
    return folders


def _template() -> Path:
    """The template's file in the installed package; nilearn itself is not imported, which takes seconds."""
    spec = find_spec("nilearn")
    path = Path(spec.origin).parent / TEMPLATE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PipelineError("the demo needs the MNI152 template of nilearn. Install it: pip install 'scanloom[demo]'.")
    return path


def _crop(data: np.ndarray, affine: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box about a place in RAS mm, and its affine; the template's axes are R, A, S."""
    middle = np.rint(np.linalg.inv(affine)[:3, :3] @ centre + np.linalg.inv(affine)[:3, 3]).astype(int)
    start = middle - BOX_VOXELS // 2
    box = tuple(slice(first, first + length) for first, length in zip(start, BOX_VOXELS, strict=True))
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return data[box], moved
