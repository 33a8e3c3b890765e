"""What MLflow loads of a registered bundle: rows of scans in, labels out, by the path that `scanloom predict` takes.

    mlflow models serve -m models:/hippocampus_mr_unet@champion --env-manager local
    curl localhost:5000/invocations -H 'Content-Type: application/json' \\
        -d '{"dataframe_records": [{"path": "/scans/one.nii.gz"}]}'

Who serves a model runs it: MLflow asks nobody whether the bundle is trusted. A server reads every file that its process
may read, so let it listen on the loopback address alone, as it does by default.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle, find_bundle
from .errors import PipelineError, UsageError
from .nifti_writer import write_nifti_volume

if TYPE_CHECKING:
    import pandas

    from .segment import CaseResult


class ServedModel:
    """A bundle behind MLflow's `pyfunc` interface.

    Args:
        bundle: to run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Label every row; a bad one does not stop the others.

        Args:
            model_input: a row a scan, with `path`, or `image` and `affine`; see `mlflow_model.save_model`.
            params: none are known.
        Returns:
            A row a scan: `case`, `status`, `error` (empty where there is none), `volumes_ml`, `labels`.
        Raises:
            UsageError: a row has neither.
        """
        import pandas

        from .segment import PredictOptions, predict

        with tempfile.TemporaryDirectory() as folder:
            rows = model_input.to_dict("records")
            inputs = [_file(row, Path(folder) / f"scan{number}.nii.gz") for number, row in enumerate(rows)]
            options = PredictOptions(inputs, Path(folder) / "out", formats=("nifti",), trust_bundle=True, pages=False)
            return pandas.DataFrame([_row(result) for result in predict(self.bundle, options)])


def _load_pyfunc(data_path: str) -> ServedModel:
    """MLflow's entry."""
    return ServedModel(find_bundle(data_path))


def _file(row: Mapping[str, Any], place: Path) -> Path:
    """The row's scan as a file: the one that it names, or its array written to `place`."""
    if isinstance(row.get("path"), str):
        return Path(row["path"])
    if row.get("image") is None or row.get("affine") is None:
        raise UsageError("a row has no path, and no image with its affine. Give it one of both.")
    write_nifti_volume(place, _array(row["image"]), _array(row["affine"]).astype(float))
    return place


def _array(nested: Any) -> np.ndarray:
    """Nested lists, or arrays of arrays as MLflow makes of them."""
    return np.asarray([_array(each) if np.ndim(each) or isinstance(each, np.ndarray) else each for each in nested])


def _row(result: CaseResult) -> dict[str, str]:
    labels = b""
    if result.folder is not None and "labels.nii.gz" in result.files:
        labels = (result.folder / "labels.nii.gz").read_bytes()
    return {
        "case": result.case or "",
        "status": result.status,
        "error": str(result.error) if isinstance(result.error, PipelineError) else "",
        "volumes_ml": json.dumps(result.volumes_ml),
        "labels": base64.b64encode(labels).decode("ascii"),
    }
