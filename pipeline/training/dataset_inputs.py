"""The data of a training as MLflow keeps them: names of cases and digests of contents, no path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .csv_table import csv_table
from .dataset import Split

CONTEXTS = ("training", "validation")
COLUMNS = ("case", "context", "image_sha256", "label_sha256")


def case_rows(split: Split, digests: Mapping[Path, bytes]) -> list[dict[str, str]]:
    """A row a case: its name, whether it trains or validates, the SHA-256 of its image and label.

    Args:
        split: of the dataset.
        digests: of its files, as of `dataset.file_digests`.
    """
    rows = []
    for context, items in zip(CONTEXTS, (split.training, split.validation), strict=True):
        for item in items:
            contents = (digests[Path(item[key])].hex() for key in ("image", "label"))
            rows.append(dict(zip(COLUMNS, (item["case"], context, *contents), strict=True)))
    return rows


def as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as a CSV file's text."""
    return csv_table(COLUMNS, rows)


def split_digest(rows: Sequence[Mapping[str, str]]) -> str:
    """SHA-256 over the cases held out to validate: figures with other digests are not of the same cases.

    Empty where none was, or one of them was trained on: such a figure is compared with none.
    """
    training, validation = (
        sorted(row["image_sha256"] + row["label_sha256"] for row in rows if row["context"] == context)
        for context in CONTEXTS
    )
    seen = set(training) & set(validation)
    return "" if seen or not validation else hashlib.sha256("".join(validation).encode()).hexdigest()


def dataset_input(name: str, rows: Sequence[Mapping[str, str]], context: str) -> dict[str, Any]:
    """A dataset of `mlflow.data` for the rows of one context.

    Args:
        name: of the dataset, for the UI.
        rows: of `case_rows`.
        context: "training" or "validation".
    """
    import mlflow.data
    import pandas
    from mlflow.data.code_dataset_source import CodeDatasetSource

    own = [row for row in rows if row["context"] == context]
    digest = hashlib.sha256(as_csv(own).encode()).hexdigest()
    table = pandas.DataFrame(own, columns=list(COLUMNS))
    source = CodeDatasetSource(tags={"sha256": digest})
    found = mlflow.data.from_pandas(table, source=source, name=name, digest=digest[:36])
    return {key: value for key, value in found.to_dict().items() if key in _FIELDS}


_FIELDS = ("name", "digest", "source_type", "source", "schema", "profile")
