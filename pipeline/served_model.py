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
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle, find_bundle
from .errors import PipelineError, UsageError
from .nifti_writer import write_nifti_volume
from .segment import CaseResult, PredictOptions, predict
from .trust import require_trust

if TYPE_CHECKING:
    import pandas

    from .inference.predictor import Predictor


class ServedModel:
    """A bundle behind MLflow's `pyfunc` interface; the first row loads its network.

    Args:
        bundle: to run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = require_trust(bundle, given=True)
        self._loaded: list[Predictor] = []
        self._one_at_a_time = Lock()  # MLflow answers each request in a thread of its own

    def predict(self, model_input: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Label every row; a bad one does not stop the others.

        Args:
            model_input: a row a scan, with `path`, or `image` and `affine`; see `mlflow_model.save_model`.
            params: none are known.
        Returns:
            A row a scan: `case`, `status`, `error` (empty where there is none), `volumes_ml`, `labels`.
        """
        import pandas

        with self._one_at_a_time:
            return pandas.DataFrame([self._label(row) for row in model_input.to_dict("records")])

    def _label(self, row: Mapping[str, Any]) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                scan = _file(row, Path(folder) / "scan.nii.gz")
            except PipelineError as error:
                return _answer(CaseResult(None, status="refused", error=error))
            options = PredictOptions([scan], Path(folder) / "out", formats=("nifti",), trust_bundle=True, pages=False)
            (result,) = predict(self.bundle, options, loaded=self._loaded)
            return _answer(result)


def _load_pyfunc(data_path: str) -> ServedModel:
    """MLflow's entry."""
    return ServedModel(find_bundle(data_path))


def _file(row: Mapping[str, Any], place: Path) -> Path:
    """The row's scan as a file: the one that it names, or its array written to `place`.

    Raises:
        UsageError: it has neither, or they are no scan.
        PipelineError: the array does not fit into a file.
    """
    path, image, affine = (_given(row.get(name)) for name in ("path", "image", "affine"))
    if path:
        return Path(str(path))
    if image is None or affine is None:
        raise UsageError("a row has no path, and no image with its affine. Give it one of both.")
    array, matrix = _numbers("image", image), _numbers("affine", affine)
    if array.ndim != 3 or not array.size:
        raise UsageError(f"image has the shape {array.shape}. Make it three-dimensional, (X, Y, Z).")
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise UsageError(f"affine has the shape {matrix.shape}. Make it 4 x 4 numbers, voxel index to RAS mm.")
    write_nifti_volume(place, array, matrix.astype(float))
    return place


def _given(value: Any) -> Any:
    """None for the NaN that stands in a table where a row has nothing."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _numbers(name: str, nested: Any) -> np.ndarray:
    try:
        array = np.asarray(_lists(nested))
    except ValueError:
        raise UsageError(f"{name} is ragged. Give each of its lists the same length.") from None
    if array.dtype.kind not in "iuf":
        raise UsageError(f"{name} holds other things than numbers. Give nested lists of numbers.")
    return array


def _lists(nested: Any) -> Any:
    """Nested lists, of the arrays of arrays that MLflow makes of them."""
    return [_lists(each) for each in nested] if isinstance(nested, list | np.ndarray) else nested


def _answer(result: CaseResult) -> dict[str, str]:
    labels = b""
    if result.folder is not None and "labels.nii.gz" in result.files:
        labels = (Path(result.folder) / "labels.nii.gz").read_bytes()
    return {
        "case": result.case or "",
        "status": result.status,
        "error": str(result.error or ""),
        "volumes_ml": json.dumps(result.volumes_ml),
        "labels": base64.b64encode(labels).decode("ascii"),
    }
