"""The files that a bundle consists of, and those whose digests it names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..bundle import Bundle
from .finding import MISSING, Finding, shown
from .schema import METADATA

CARD = "docs/README.md"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "docs/LICENSE", "docs/license.txt", "docs/LICENSE.txt")
SHA256 = re.compile(r"[0-9a-f]{64}")
WEIGHTS_DIGESTS = (("training", "weights_sha256"), ("weights_sha256",))
"""Where the metadata have the digest of the weights."""
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
"""Of the model zoo: files that are downloaded, with their digests."""
ALGORITHMS = ("sha256", "sha1", "md5", "sha512")


def file_findings(bundle: Bundle) -> Iterator[Finding]:
    """Weights, model card and licence are there, and every file has the digest that the bundle names."""
    yield from _presence(bundle)
    yield from _weights_digest(bundle)
    yield from _digest_forms(bundle.metadata, ())
    yield from _large_files(bundle)


def _presence(bundle: Bundle) -> Iterator[Finding]:
    if not bundle.weights.is_file():
        remedy = "Train the bundle with `scanloom train`, or copy its weights there."
        yield Finding(f"models/{bundle.weights.name}", "", MISSING, "a bundle without weights predicts nothing", remedy)
    card = bundle.folder / CARD
    if not card.is_file() or not card.read_bytes().strip():
        state = "(empty)" if card.is_file() else MISSING
        remedy = "Write what the bundle is for, what it was trained on, how good it is, and its limits."
        yield Finding(CARD, "", state, "a bundle needs a model card", remedy)
    texts = [bundle.folder / name for name in LICENCES]
    if not any(path.is_file() and path.read_bytes().strip() for path in texts):
        yield Finding(
            "LICENSE", "", MISSING, "nobody knows what may be done with the bundle", "Add the licence's text."
        )


def _weights_digest(bundle: Bundle) -> Iterator[Finding]:
    for parts in WEIGHTS_DIGESTS:
        named = _at(bundle.metadata, parts)
        if isinstance(named, str) and SHA256.fullmatch(named) and bundle.weights.is_file():
            found = bundle.weights_sha256
            if found != named:
                problem = (
                    f"models/{bundle.weights.name} has {found[:16]}…: it is not the file that the metadata speak of"
                )
                remedy = f"Restore models/{bundle.weights.name}, or train the bundle again."
                yield Finding(METADATA, "#".join(parts), shown(named), problem, remedy)


def _digest_forms(value: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    """Whatever is called …_sha256 is 64 hex digits, or null."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if str(key).endswith("_sha256") and each is not None and not SHA256.fullmatch(str(each)):
                problem, remedy = "it is no SHA-256", "Write its 64 hex digits in small letters, or leave it out."
                yield Finding(METADATA, "#".join((*path, str(key))), shown(each), problem, remedy)
            else:
                yield from _digest_forms(each, (*path, str(key)))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _digest_forms(each, (*path, str(place)))


def _large_files(bundle: Bundle) -> Iterator[Finding]:
    """The files of the zoo's large_files.yml are there, as it says."""
    for name in LARGE_FILES:
        listing = bundle.folder / name
        if not listing.is_file():
            continue
        try:
            entries = yaml.safe_load(listing.read_text(encoding="utf-8"))["large_files"]
            listed = [(str(entry["path"]), entry.get("hash_val"), entry.get("hash_type")) for entry in entries]
        except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError):
            remedy = "Make it an object with large_files, a list of path, url, hash_type and hash_val."
            yield Finding(name, "", "", "it can not be read", remedy)
            continue
        for place, (path, digest, algorithm) in enumerate(listed):
            yield from _large_file(bundle.folder, name, f"large_files#{place}", path, digest, algorithm or "md5")


def _large_file(folder: Path, name: str, key: str, path: str, digest: str | None, algorithm: str) -> Iterator[Finding]:
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()):
        problem, remedy = "it lies outside of the bundle", "Put it into the bundle."
        yield Finding(name, f"{key}#path", shown(path), problem, remedy)
    elif not file.is_file():
        remedy = "Download it: python -m monai.bundle download_large_files --bundle_path FOLDER."
        yield Finding(name, f"{key}#path", shown(path), "there is no such file", remedy)
    elif digest and algorithm not in ALGORITHMS:
        remedy = f"Use one of {', '.join(ALGORITHMS)}."
        yield Finding(name, f"{key}#hash_type", shown(algorithm), "there is no such digest", remedy)
    elif digest and hashlib.new(algorithm, file.read_bytes(), usedforsecurity=False).hexdigest() != digest:
        problem = f"{path} has another {algorithm}"
        yield Finding(name, f"{key}#hash_val", shown(digest), problem, f"Download {path} again, or mend its digest.")


def _at(value: Any, parts: tuple[str, ...]) -> Any:
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
