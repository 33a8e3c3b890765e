"""A config of a bundle as MONAI reads it, with nothing of it built or evaluated; ids and entries of configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SEPARATOR = "::"
"""Between the parts of an id as MONAI holds it; files may have `#` as well."""


@dataclass(frozen=True)
class BundleConfig:
    """A config file.

    Attributes:
        name: of the file without its suffix, such as "inference".
        file: within the bundle.
        content: what the file holds.
        whole: the content upon that of the files it lies upon, and the metadata as `_meta_`.
        bases: the names of these files.
    """

    name: str
    file: str
    content: Mapping[str, Any]
    whole: Mapping[str, Any]
    bases: tuple[str, ...] = ()

    def get(self, id: str) -> Any:
        """The entry of that id; None where there is none."""
        return entry(self.whole, id)

    def own(self) -> Iterator[tuple[str, Any]]:
        """Id and value of every entry that this file brings, with `::` between the parts of the id."""
        prefixes = [normal(str(key).lstrip("+")) for key in self.content]
        for id, value in walk(self.whole):
            if any(id == prefix or id.startswith(prefix + SEPARATOR) for prefix in prefixes):
                yield id, value

    def own_texts(self) -> Iterator[tuple[str, str]]:
        """Those entries that are texts."""
        return ((id, value) for id, value in self.own() if isinstance(value, str))

    def own_components(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Those entries that name a component, as `_target_`."""
        return ((id, value) for id, value in self.own() if isinstance(value, Mapping) and "_target_" in value)


def entry(config: Any, id: str) -> Any:
    """The entry of that id in a config; None where there is none."""
    for part in normal(id).split(SEPARATOR) if id else ():
        if isinstance(config, Mapping):
            config = next((value for key, value in config.items() if str(key) == part), None)
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def holds(config: Any, id: str) -> bool:
    """Whether there is an entry of that id, be it null."""
    if entry(config, id) is not None:
        return True
    parent, _, last = normal(id).rpartition(SEPARATOR)
    above = entry(config, parent)
    if isinstance(above, Mapping):
        return last in map(str, above)
    return isinstance(above, list) and last.isdigit() and int(last) < len(above)


def normal(id: str) -> str:
    """The id with `::` between its parts."""
    return id.replace("#", SEPARATOR)


def written(id: str) -> str:
    """The id as findings have it, with `#` between its parts."""
    return id.replace(SEPARATOR, "#")


def walk(value: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    """Id and value of every entry, those within entries after them; the metadata are left out."""
    yield id, value
    pairs: Any = ()
    if isinstance(value, Mapping):
        pairs = ((str(key), each) for key, each in value.items() if id or key != "_meta_")
    elif isinstance(value, list):
        pairs = ((str(place), each) for place, each in enumerate(value))
    for key, each in pairs:
        yield from walk(each, f"{id}{SEPARATOR}{key}" if id else key)
