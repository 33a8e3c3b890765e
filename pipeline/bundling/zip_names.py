"""Names in a zip that are the same file on every system, and lead nowhere else."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

NAME_BYTES = 255
"""The longest name of one file or folder that common file systems take."""


def unsafe_name(name: str) -> str | None:
    """What is wrong with a member's name, in words; None where it can be unpacked on every system.

    Args:
        name: of a file or folder, its parts with "/" between, without one at the end.
    """
    if name.startswith("/") or "\\" in name or ":" in name:
        return "a name that is absolute, or of one system only"
    parts = name.split("/")
    if ".." in parts:
        return "a name that leads out of its folder"
    if any(part != part.rstrip(". ") or not part for part in parts):
        return "a name with an empty part, or one that ends in a dot or a space"
    if not name.isprintable():
        return "a name with characters that can not be printed"
    if any(len(part.encode(errors="surrogatepass")) > NAME_BYTES for part in parts):
        return f"a name of more than {NAME_BYTES} bytes"
    return None


def clash(names: Iterable[str]) -> str | None:
    """What is wrong with the names of several files together; None where each is a file of its own on every system.

    Letters that differ in case, or in how Unicode composes them, are one file on some systems.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if same in files:
            return "two files of one name"
        files.add(same)
        parts = same.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    return "a file and a folder of one name" if files & folders else None
