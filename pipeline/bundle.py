"""A MONAI bundle on disk: where it is, what its metadata says, which weights it holds. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from .errors import BundleError

if TYPE_CHECKING:
    from .bundle_files import PrivateCopy

SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
"""The folder of the bundles that come with the package."""

REGISTERED = "models:/"
"""How the name of a bundle in MLflow's registry begins."""

NETWORK = "network_def"
"""Id of the network in our configs: weights fit only where training and inference agree about it."""

MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}
"""How metadata name a modality -> DICOM Modality (0008,0060)."""

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Code:
    """A coded concept as DICOM writes it: value, coding scheme designator ("SCT"), meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class LabelClass:
    """One label of a segmentation, with the codes that a DICOM SEG needs.

    Attributes:
        value: the integer in the label map, 1 or more; 0 is background.
        name: short name for tables and file names.
        category: SegmentedPropertyCategoryCodeSequence (0062,0003).
        type: SegmentedPropertyTypeCodeSequence (0062,000F).
        modifier: SegmentedPropertyTypeModifierCodeSequence (0062,0011), such as Anterior; None where the type says all.
        color: sRGB, each 0 to 255, for previews and RecommendedDisplayCIELabValue.
    """

    value: int
    name: str
    category: Code
    type: Code
    modifier: Code | None
    color: tuple[int, int, int]


@dataclass(frozen=True)
class SeriesRule:
    """Which series of a study a bundle was trained for.

    Attributes:
        modality: DICOM Modality; None takes any.
        min_slices: series with fewer slices (scouts) are left out.
        spacing_mm: every edge of a voxel lies between these; None takes any.
        keywords: of several series that fit, those win whose description holds one of these words.
    """

    modality: str | None = None
    min_slices: int = 1
    spacing_mm: tuple[float, float] | None = None
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A bundle folder and its metadata.

    Attributes:
        folder: where its files are read.
        metadata: of configs/metadata.json.
        trusted: its code may run here, that of its own Python files too; see `trust.require_trust`.
        copied_from: the user's folder or zip, where `folder` is a private copy of it that was checked, or was unpacked.
        private_copy: that copy, which lasts as long as this object.
    """

    folder: Path
    metadata: Mapping[str, Any] = field(repr=False)
    trusted: bool = field(default=False, repr=False, compare=False)
    copied_from: Path | None = field(default=None, repr=False, compare=False)
    private_copy: PrivateCopy | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> Path:
        """The folder or zip that the user knows it by."""
        return self.copied_from or self.folder

    @property
    def digests(self) -> Mapping[str, str]:
        """Name -> SHA-256 of each file of a private copy, as it was made; empty for any other."""
        return self.private_copy.digests if self.private_copy else {}

    @property
    def name(self) -> str:
        """The folder-safe name in the metadata, or the folder's own."""
        return str(self.metadata.get("name") or self.folder.name)

    @property
    def version(self) -> str:
        """The bundle's own version, not scanloom's.

        Raises:
            BundleError: the metadata has none.
        """
        if "version" not in self.metadata:
            raise BundleError(f'bundle {self.name}: configs/metadata.json has no version. Add one, such as "0.1.0".')
        return str(self.metadata["version"])

    @property
    def series_rule(self) -> SeriesRule:
        """Which series of a study this bundle takes; any, where the metadata does not say.

        Raises:
            BundleError: the metadata has an unusable `series_selection`.
        """
        rule = self.metadata.get("series_selection", _modality_rule(self.metadata))
        try:
            spacing = rule.get("spacing_mm")
            return SeriesRule(
                rule.get("modality"),
                int(rule.get("min_slices", 1)),
                None if spacing is None else (float(spacing[0]), float(spacing[1])),
                tuple(str(word).lower() for word in rule.get("keywords", ())),
            )
        except (AttributeError, TypeError, ValueError, LookupError):
            raise BundleError(
                f"bundle {self.name}: series_selection in configs/metadata.json is {rule!r}. "
                'Make it an object such as {"modality": "MR", "min_slices": 8, "spacing_mm": [0.5, 2.0], '
                '"keywords": ["t1"]}, or leave it out.'
            ) from None

    @cached_property
    def labels(self) -> tuple[LabelClass, ...]:
        """The labels without background, in the order of their values.

        Where the metadata have no `label_classes`, as the Model Zoo's, they are the channels of the network's output.

        Raises:
            BundleError: the metadata has no usable `label_classes`, or its channels may overlap.
        """
        if "label_classes" not in self.metadata:
            from .channel_labels import labels_of_channels

            named = labels_of_channels(self)
            if named:
                return named
        try:
            classes = [_label_class(entry) for entry in self.metadata["label_classes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"bundle {self.name}: label_classes in configs/metadata.json is missing or incomplete ({error!r}). "
                "Give each label value, name, category, type and color."
            ) from None
        values = sorted(label.value for label in classes)
        if len({*values}) < len(values) or min(values, default=1) < 1:
            raise BundleError(
                f"bundle {self.name}: label_classes in configs/metadata.json have the values "
                f"{', '.join(map(str, values))}; each must be 1 or more and its own. 0 is background."
            )
        return tuple(sorted(classes, key=lambda label: label.value))

    @property
    def coding_notices(self) -> tuple[str, ...]:
        """What a user should know of the labels' codes."""
        unknown = [label.name for label in self.labels if label.type.scheme.startswith("99")]
        if "label_classes" in self.metadata or not unknown:
            return ()
        return (f"no DICOM code is known for {', '.join(unknown)}: their codes in DICOM objects are private ones",)

    @property
    def bf16_dice_cost(self) -> float | None:
        """Mean Dice in fp32 less that in bf16, as the metadata's `measured_dice` has them; None where it does not.

        Raises:
            BundleError: they are no numbers.
        """
        measured = self.metadata.get("measured_dice", {})
        try:
            return float(measured["fp32"]) - float(measured["bf16"])
        except KeyError:
            return None
        except (TypeError, ValueError):
            raise BundleError(
                f"bundle {self.name}: measured_dice in configs/metadata.json is {measured!r}. "
                'Make it an object such as {"fp32": 0.891, "bf16": 0.891}, or leave it out.'
            ) from None

    @property
    def weights(self) -> Path:
        """The state dict that inference loads: models/model.pt; models/model.ts where that alone is there."""
        tensors, program = self.folder / "models" / "model.pt", self.folder / "models" / "model.ts"
        return program if program.is_file() and not tensors.is_file() else tensors

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, 64 hex digits."""
        try:
            return hashlib.sha256(self.weights.read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(
                f"bundle {self.name}: no readable weights at {self.weights} ({error.strerror}). "
                "Train it with `scanloom train`, or copy the weights there."
            ) from None

    def config(self, name: str) -> Path:
        """The config `configs/<name>.yaml` (or .yml, .json).

        Raises:
            BundleError: there is none.
        """
        for suffix in CONFIG_SUFFIXES:
            path = self.folder / "configs" / f"{name}{suffix}"
            if path.is_file():
                return path
        raise BundleError(f"bundle {self.name}: no {name}.yaml or {name}.json in {self.folder / 'configs'}. Add one.")


def find_bundle(name_or_folder: str | Path) -> Bundle:
    """The bundle of that name among the shipped ones, in that folder or zip, or models:/NAME@ALIAS of MLflow's.

    Raises:
        BundleError: there is no such bundle, its metadata can not be read, or its zip is not to be trusted.
        PipelineError: the registry can not be used.
    """
    if str(name_or_folder).startswith(REGISTERED):
        from .registered_bundle import fetch_bundle

        name_or_folder = fetch_bundle(str(name_or_folder))
    elif _is_zip(Path(name_or_folder).expanduser()):
        from .bundling.unpack import unpacked_bundle

        path = Path(name_or_folder).expanduser()
        return replace(open_bundle(unpacked_bundle(path).resolve()), copied_from=path.resolve())
    candidates = [Path(name_or_folder).expanduser(), SHIPPED / name_or_folder]
    for folder in candidates:
        if (folder / "configs" / "metadata.json").is_file():
            return open_bundle(folder.resolve())
    raise BundleError(
        f"no bundle {str(name_or_folder)!r}: neither a folder with configs/metadata.json nor one of the shipped "
        f"{', '.join(shipped_bundles()) or '(none)'}. Pass a bundle's name, folder or .zip, or models:/NAME@ALIAS."
    )


def open_bundle(folder: Path) -> Bundle:
    """The bundle in that folder.

    Raises:
        BundleError: its metadata can not be read.
    """
    return Bundle(folder, _read_metadata(folder / "configs" / "metadata.json"))


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.parent.name for path in SHIPPED.glob("*/configs/metadata.json"))


def bundle_digest(bundle: Bundle) -> str:
    """SHA-256 over the names and contents of all files of the bundle, 64 hex digits; the same as a folder or a zip."""
    files = (path for path in bundle.folder.rglob("*") if path.is_file())
    return digest_of((path.relative_to(bundle.folder).as_posix(), file_sha256(path)) for path in files)


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """What `bundle_digest` says of a bundle of these files.

    Args:
        files: name in the bundle, its parts with "/" between, and SHA-256 of the contents, 32 bytes; in any order.
    """
    digest = hashlib.sha256()
    for name, contents in sorted(files, key=lambda file: file[0].split("/")):
        digest.update(hashlib.sha256(name.encode(errors="surrogateescape")).digest())
        digest.update(contents)
    return digest.hexdigest()


def file_sha256(path: Path) -> bytes:
    """SHA-256 of a file's contents, 32 bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def running_bundle_root() -> Path:
    """The folder of the bundle whose config this process was started with, for `bundle_root` in our configs.

    `python -m monai.bundle run --config_file <folder>/configs/train.yaml` tells a config nothing of its own place, so
    it is read from the command line; without one there, the working folder is taken, as MONAI's own bundles do.
    """
    for word in sys.argv[1:]:
        path = Path(word.split("=", 1)[-1])
        if path.suffix in CONFIG_SUFFIXES and path.parent.name == "configs" and path.is_file():
            return path.resolve().parent.parent
    return Path.cwd()


def _is_zip(path: Path) -> bool:
    """Whether it is a file that is a zip, or is called like one, by which `unpack` takes or refuses it."""
    return path.is_file() and (path.suffix.lower() == ".zip" or is_zipfile(path))


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle metadata {path} can not be read: {error}. It must be a JSON object.") from None
    if not isinstance(metadata, dict):
        raise BundleError(f"bundle metadata {path} holds a {type(metadata).__name__}. It must be a JSON object.")
    return metadata


def _modality_rule(metadata: Mapping[str, Any]) -> dict[str, str]:
    """A rule of the modality that the network's input has, as the Model Zoo's metadata name it."""
    try:
        modality = str(metadata["network_data_format"]["inputs"]["image"]["modality"]).upper()
    except (KeyError, TypeError):
        return {}
    return {"modality": MODALITIES[modality]} if modality in MODALITIES else {}


def _label_class(entry: Mapping[str, Any]) -> LabelClass:
    red, green, blue = (int(part) for part in entry["color"])
    modifier = entry.get("modifier")
    return LabelClass(
        value=int(entry["value"]),
        name=str(entry["name"]),
        category=_code(entry["category"]),
        type=_code(entry["type"]),
        modifier=_code(modifier) if modifier else None,
        color=(red, green, blue),
    )


def _code(entry: Mapping[str, str]) -> Code:
    return Code(entry["value"], entry["scheme"], entry["meaning"])
