"""What a file of weights is, told without loading it: plain tensors, a program, or a pickle that could run anything.

Nothing is unpickled: the operations of a pickle are read, and the names that it would import. Sources: Python's
`pickletools`; torch.serialization (a zip with data.pkl, or, before PyTorch 1.6, several pickles in a row).
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .zip_file import DAMAGED

TENSOR_NAMES = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch Size|torch (u?int|float|bfloat|complex|bool)\w*"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\.nn\.parameter Parameter"
)
"""Module and name, with a space between, of what a state dict's pickle needs: tensors and the numbers about them."""
MAGIC = ("\x80\x02", "\x80\x03", "\x80\x04", "\x80\x05")
"""How pickles of protocols 2 to 5 begin."""
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".ts", ".npy", ".npz", ".th", ".model")
"""What files are called that pickles are kept in."""
MOST_BYTES = 2**28
"""Of a pickle that is looked through; the tensors' values lie beside it."""


def look_into(path: Path) -> str | None:
    """What is more than tensors in the file, a phrase; None for plain tensors and for files that hold no pickle."""
    try:
        with path.open("rb") as file:
            start = file.read(2).decode("latin-1")
        if zipfile.is_zipfile(path):
            return _of_archive(path)
        if start in MAGIC or (path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".npy"):
            return _of_pickles(path)
        if path.suffix.lower() == ".npy" and b"'O'" in path.read_bytes()[:256]:
            return "a NumPy array of pickled objects"
    except (OSError, *DAMAGED) as error:
        return f"can not be looked into ({type(error).__name__})"
    return None


def _of_archive(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.split("/")[1:2] == ["code"] for name in names):
            return "TorchScript, a program"
        strange: set[str] = set()
        for entry in archive.infolist():
            if entry.filename.endswith((".pkl", ".pickle", ".npy")):
                if entry.file_size > MOST_BYTES:
                    return f"a pickle of more than {MOST_BYTES // 2**20} MiB ({entry.filename})"
                strange.update(_strange_names(io.BytesIO(archive.read(entry))))
    return _told(strange)


def _of_pickles(path: Path) -> str | None:
    """Of a file of pickles in a row, with the values of tensors after them."""
    strange: set[str] = set()
    with path.open("rb") as file:
        read = 0
        while file.peek(2)[:2].decode("latin-1") in MAGIC and read < MOST_BYTES:
            strange.update(_strange_names(file))
            read = file.tell()
        if not read:
            return "a file of another format than PyTorch's"
    return _told(strange)


def _told(strange: set[str]) -> str | None:
    return f"a pickle that calls {', '.join(sorted(strange))}" if strange else None


def _strange_names(file: IO[bytes]) -> Iterator[str]:
    """What the next pickle in the file would import, beside what tensors need; "?" for what can not be told."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    last: str | None = None
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name in ("GLOBAL", "INST"):
            yield from _unless_of_tensors(str(argument))
        elif name == "STACK_GLOBAL":
            yield from _unless_of_tensors(" ".join(texts[-2:]) if len(texts) > 1 else "?")
        elif name.startswith("EXT"):
            yield "?"
        if "UNICODE" in name or "STRING" in name:
            last = str(argument)
            texts.append(last)
        elif name == "MEMOIZE" or "PUT" in name:
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = last if last is not None else "?"
        elif "GET" in name:
            texts.append(memo.get(int(argument or 0), "?"))
        else:
            last = None


def _unless_of_tensors(name: str) -> Iterator[str]:
    if not TENSOR_NAMES.fullmatch(name):
        yield name.replace(" ", ".", 1)
