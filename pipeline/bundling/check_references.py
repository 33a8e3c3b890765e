"""References (`@id`) and macros (`%id`, `%file#id`) of the configs: each leads somewhere, none in a circle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ..bundle import Bundle
from .configs import BundleConfig, entry, holds, walk, written
from .finding import Finding, shown

MACRO = "%"


def reference_findings(bundle: Bundle, configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """A fault for each reference or macro that leads nowhere, and for each circle."""
    for config in configs:
        for id, value, wanted in unresolved(config):
            near = get_close_matches(wanted, [known for known, _ in walk(config.whole)], n=1)
            hint = f"Did you mean @{written(near[0])}?" if near else "Add it, or take the reference away."
            problem = f"there is no id {written(wanted)}"
            yield Finding(config.file, written(id), shown(value), problem, hint)
        for id, value in config.own_texts():
            if value.startswith(MACRO):
                yield from _macro(bundle.folder, config, id, value)
        yield from _circles(config)


def unresolved(config: BundleConfig) -> list[tuple[str, str, str]]:
    """Id and text of every entry of the file with a reference that leads nowhere, and the id that it refers to."""
    return [
        (id, value, wanted)
        for id, value in config.own_texts()
        for wanted in references(id, value)
        if not holds(config.whole, wanted)
    ]


def references(id: str, value: str) -> list[str]:
    """The ids that a text of that id refers to; relative ones (`@#id`) are resolved."""
    from monai.bundle.config_parser import ConfigParser
    from monai.bundle.reference_resolver import ReferenceResolver

    try:
        absolute = ConfigParser.resolve_relative_ids(id, value)
    except ValueError:  # more steps up than there are
        return [value.lstrip("@")]
    return [] if absolute.startswith(MACRO) else list(ReferenceResolver.match_refs_pattern(absolute))


def _macro(folder: Path, config: BundleConfig, id: str, value: str) -> Iterator[Finding]:
    from monai.bundle.config_parser import ConfigParser

    try:
        path, wanted = ConfigParser.split_path_id(ConfigParser.resolve_relative_ids(id, value)[len(MACRO) :])
    except ValueError:
        path, wanted = "", value
    source: object = config.whole
    if path:
        file = (folder / path).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            problem, remedy = f"there is no {path} in the bundle", "Put what it names into this config."
            yield Finding(config.file, written(id), shown(value), problem, remedy)
            return
        try:
            source = ConfigParser.load_config_file(str(file))
        except Exception as error:  # whatever a parser of YAML or JSON makes of a broken file
            problem, remedy = f"{path} can not be read: {' '.join(str(error).split())[:120]}", f"Mend {path}."
            yield Finding(config.file, written(id), shown(value), problem, remedy)
            return
    if wanted and not holds(source, wanted):
        problem, remedy = f"there is no id {written(wanted)}", "Add it, or write here what it was to stand for."
        yield Finding(config.file, written(id), shown(value), problem, remedy)


def _circles(config: BundleConfig) -> Iterator[Finding]:
    """A fault for each reference that leads, by further ones, to what holds it."""
    needs = _needs(config)
    done: set[str] = set()
    for start in needs:
        yield from _follow(config, start, needs, done)


def _needs(config: BundleConfig) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each id that is referred to, or refers: the ids that it needs, with the entry and text that need them."""
    direct = {id: references(id, value) for id, value in walk(config.whole) if isinstance(value, str)}
    direct = {id: found for id, found in direct.items() if found}
    nodes = {*direct, *(wanted for found in direct.values() for wanted in found)}
    needs: dict[str, dict[str, tuple[str, str]]] = {}
    for node in sorted(nodes):
        needs[node] = {
            wanted: (id, str(entry(config.whole, id)))
            for id, found in direct.items()
            if id == node or id.startswith(f"{node}::")
            for wanted in found
        }
    return needs


def _follow(
    config: BundleConfig, start: str, needs: Mapping[str, Mapping[str, tuple[str, str]]], done: set[str]
) -> Iterator[Finding]:
    """Walk the references from an id, depth first and without recursion."""
    path, ways = [start], [iter(needs.get(start, {}).items())]
    while path:
        step = next(ways[-1], None)
        if step is None:
            done.add(path.pop())
            ways.pop()
            continue
        wanted, (id, value) = step
        if wanted in path:
            circle = " -> ".join(written(each) for each in [*path[path.index(wanted) :], wanted])
            remedy = "Let one of them not refer to the next."
            yield Finding(config.file, written(id), shown(value), f"it refers to itself: {circle}", remedy)
        elif wanted not in done:
            path.append(wanted)
            ways.append(iter(needs.get(wanted, {}).items()))
