"""A bundle's config changed as text, so that its order, its style and its comments stay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

TARGET = "_target_"
VERY_WIDE = 10_000
"""Columns: values are written in one line each."""


class ConfigText:
    """A YAML or JSON text and the changes to it, which `str` makes.

    Args:
        text: of a mapping; anchors and merges are not followed.
    Raises:
        ValueError: it is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"no YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(root, MappingNode):
            raise ValueError("no mapping of ids")
        self.root = root
        self._edits: list[tuple[int, int, str]] = []

    def __contains__(self, key: str) -> bool:
        return self.at(key) is not None

    def at(self, key: str) -> Node | None:
        """The node of an id such as "train#dataset" or "steps#0"; None where there is none."""
        node: Node | None = self.root
        for part in key.split("#"):
            if isinstance(node, MappingNode):
                node = next((value for name, value in node.value if name.value == part), None)
            elif isinstance(node, SequenceNode) and part.isdigit() and int(part) < len(node.value):
                node = node.value[int(part)]
            else:
                return None
        return node

    def components(self, *names: str) -> Iterator[MappingNode]:
        """Every mapping whose `_target_` is a class of one of these names, whatever its module."""
        yield from (node for node in _mappings(self.root) if _class_name(node) in names)

    def value(self, node: Node) -> Any:
        """What a node stands for, as plain values."""
        return yaml.SafeLoader("").construct_object(node, deep=True)

    def set(self, node: MappingNode, key: str, value: Any) -> None:
        """Change the value of a key, or add the key at the end."""
        for name, old in node.value:
            if name.value == key:
                in_place = isinstance(old, ScalarNode) or old.flow_style  # a block may begin at the key's own column
                start, before = (old.start_mark.index, "") if in_place else (name.end_mark.index, ": ")
                self._edits.append((start, _end(old), before + self._flow(value)))
                return
        if node.flow_style:
            comma = ", " if node.value else ""
            self._edits.append((_end(node) - 1, _end(node) - 1, f"{comma}{self._flow(key)}: {self._flow(value)}"))
        else:
            line = f"\n{' ' * _column(node)}{key}: {self._flow(value)}"
            self._edits.append((_end(node), _end(node), line))

    def replace(self, item: Node, *components: Mapping[str, Any]) -> None:
        """Put these components into a list in place of one of its items."""
        if isinstance(item, MappingNode) and not item.flow_style:
            margin = " " * _column(item)
            blocks = [f"\n{margin}".join(f"{k}: {self._flow(v)}" for k, v in each.items()) for each in components]
            text = f"\n{margin[:-2]}- ".join(blocks)
        else:
            text = ", ".join(self._flow(each) for each in components)
        self._edits.append((item.start_mark.index, _end(item), text))

    def head(self, lines: Sequence[str]) -> None:
        """Put these lines in place of the comment that a YAML text begins with."""
        if not self._is_json:
            self._edits.append((0, self.root.start_mark.index, "".join(f"# {line}\n" for line in lines)))

    def __str__(self) -> str:
        text = self.text
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2])[
            ::-1
        ]:  # those of one place in their order
            text = text[:start] + new + text[end:]
        return text

    @property
    def _is_json(self) -> bool:
        return bool(self.root.flow_style)

    def _flow(self, value: Any) -> str:
        """The value in one line; what is JSON stays JSON."""
        if self._is_json:
            return json.dumps(value, ensure_ascii=False)
        text = yaml.dump(
            value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=VERY_WIDE, allow_unicode=True
        )
        return text.removesuffix("...\n").strip()


class _Dumper(yaml.SafeDumper):
    """Writes the same list twice where it stands twice, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def _mappings(node: Node) -> Iterator[MappingNode]:
    if isinstance(node, MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _class_name(node: MappingNode) -> str:
    target = next((value for name, value in node.value if name.value == TARGET), None)
    return str(target.value).rpartition(".")[2] if isinstance(target, ScalarNode) else ""


def _column(node: Node) -> int:
    return int(node.start_mark.column)


def _end(node: Node) -> int:
    """Where the node's text ends; PyYAML has a block end where the next thing begins, after comments."""
    if not isinstance(node, MappingNode | SequenceNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(node, MappingNode) else last)
