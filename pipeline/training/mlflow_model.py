"""A bundle as an MLflow model: a `pyfunc`, which `mlflow models predict` and `serve` run."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path

from ..bundle import Bundle

LOADER = "scanloom.pipeline.served_model"
"""The module whose `_load_pyfunc` MLflow calls."""
REQUIREMENTS = ("scanloom", "torch", "monai", "mlflow", "nibabel", "pydicom")


def save_model(bundle: Bundle, folder: Path) -> None:
    """Write the bundle as an MLflow model into a new folder; the bundle's own files stay as they are.

    Columns of its input, of which a row has `path` or the other two: `path` of a scan on the machine that serves;
    `image`, (X, Y, Z) as nested lists, and its `affine`, (4, 4), voxel index -> RAS mm. Columns of its output: `case`,
    `status`, `error`, `volumes_ml` (JSON, label name -> ml) and `labels` (a .nii.gz file in base64).
    """
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    inputs = [
        ColSpec(DataType.string, "path", required=False),
        ColSpec(AnyType(), "image", required=False),  # as nested arrays of doubles MLflow would refuse whole numbers
        ColSpec(AnyType(), "affine", required=False),
    ]
    outputs = [ColSpec(DataType.string, name) for name in ("case", "status", "error", "volumes_ml", "labels")]
    with warnings.catch_warnings():  # MLflow warns of what it does itself
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=LOADER,
            data_path=str(bundle.folder),
            input_example=pandas.DataFrame({"path": ["scan.nii.gz"]}),
            signature=ModelSignature(Schema(inputs), Schema(outputs)),
            pip_requirements=[f"{name}=={_public_version(name)}" for name in REQUIREMENTS],
            metadata={"bundle": bundle.name, "version": bundle.version},
        )


def _public_version(name: str) -> str:
    """The installed one, without the build (+cpu), which no index but its own has."""
    return metadata.version(name).partition("+")[0]
