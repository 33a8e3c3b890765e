"""Expressions (`$…`) of the configs: they are Python, and every name in them is known. Nothing is evaluated."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from ..bundle import Bundle
from .components import NotFoundError, locate
from .configs import BundleConfig, walk, written
from .finding import Finding, shown

MONAIS = ("monai", "torch", "np", "numpy")
"""Names that MONAI gives every expression. Source: monai/bundle/config_parser.py, `_default_globals`."""
REFERENCE = "__reference__"
"""Stands for whatever an `@id` in an expression refers to."""


def expression_findings(bundle: Bundle, configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """A fault for each expression that is no Python, each name in one that is not known, each import that fails."""
    for config in configs:
        parsed: dict[str, tuple[str, ast.AST]] = {}
        for id, value in walk(config.whole):
            if isinstance(value, str) and value.startswith("$"):
                try:
                    parsed[id] = value, _parse(value[1:])
                except (SyntaxError, ValueError):
                    continue
        imported = {name for _, tree in parsed.values() for name in _imports(tree)}
        for id, value in config.own_texts():
            if not value.startswith("$"):
                continue
            if id not in parsed:
                problem, remedy = f"it is no Python expression: {_why(value[1:])}", "Mend the expression."
                yield Finding(config.file, written(id), shown(value), problem, remedy)
                continue
            yield from _import_faults(bundle, config.file, id, *parsed[id])
            for name in sorted(_unknown(parsed[id][1], imported)):
                near = get_close_matches(name, [*imported, *MONAIS, *dir(builtins)], n=1)
                hint = f"Did you mean {near[0]}?" if near else f"Import {name} in imports, or write @{name} for an id."
                yield Finding(config.file, written(id), shown(value), f"there is no {name}", hint)


def _parse(text: str) -> ast.AST:
    """The expression, or the import statement that it may be instead; references are names in it."""
    from monai.bundle.reference_resolver import ReferenceResolver

    plain = ReferenceResolver.id_matcher.sub(REFERENCE, ReferenceResolver.normalize_id(text))
    try:
        return ast.parse(plain.strip(), mode="eval")
    except SyntaxError:
        tree = ast.parse(plain.strip(), mode="exec")
        if tree.body and isinstance(tree.body[0], ast.Import | ast.ImportFrom):
            return tree
        raise


def _why(text: str) -> str:
    try:
        _parse(text)
    except SyntaxError as error:
        return error.msg
    except ValueError as error:
        return str(error)
    return "it can not be read"


def _imports(tree: ast.AST) -> Iterator[str]:
    """The names that MONAI binds for an import statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _import_faults(bundle: Bundle, file: str, id: str, value: str, tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            name = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            try:
                locate(name if "." in name else f"{name}.__name__", bundle.folder)
            except NotFoundError as error:
                yield Finding(file, written(id), shown(value), str(error), error.remedy)


def _unknown(tree: ast.AST, imported: set[str]) -> set[str]:
    """Names that are used and bound nowhere: not by MONAI, imports, lambdas, comprehensions or `:=`."""
    known = {*imported, *(name.partition(".")[0] for name in imported), *MONAIS, *dir(builtins), REFERENCE}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used - known - bound
