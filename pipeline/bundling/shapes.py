"""Spatial shapes as metadata write them: lengths, or expressions in n and p such as "16*n" and "2**p*n"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from itertools import product

LONGEST = 2**16
"""Voxels along an axis that anyone means."""
MOST_N, MOST_P = 128, 7
LEAST = 24
"""Voxels along each axis of the larger of the sizes to try."""
ANY = 32
"""Voxels along an axis of which "*" says that any number will do."""
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def lengths(shape: Sequence[int | str], n: int, p: int) -> tuple[int, ...]:
    """The voxels along each axis for these n and p.

    Raises:
        ValueError: an entry is no expression of whole numbers, n, p and + - * // **, or no length.
    """
    return tuple(_length(entry, n, p) for entry in shape)


def sizes_to_try(shape: Sequence[int | str]) -> list[tuple[int, int]]:
    """n and p of the sizes that a network of that input shape is tried with.

    The first is MONAI's, n = p = 1; the second, where the shape has variables, the smallest one of at least 24 voxels
    along each axis, whose axes are no shorter than what most networks reduce.
    """
    tries = [(1, 1)]
    larger = []
    for n, p in product(range(1, MOST_N + 1), range(1, MOST_P + 1)):
        try:
            size = lengths(shape, n, p)
        except ValueError:
            continue
        if min(size) >= LEAST:
            larger.append((sum(size), n, p))
    if larger and lengths(shape, *min(larger)[1:]) != lengths(shape, 1, 1):
        tries.append(min(larger)[1:])
    return tries


def _length(entry: int | str, n: int, p: int) -> int:
    if isinstance(entry, int):
        result = entry
    elif entry.strip() == "*":
        result = ANY
    else:
        try:
            result = _value(ast.parse(entry.strip(), mode="eval").body, {"n": n, "p": p})
        except (SyntaxError, ArithmeticError) as error:
            raise ValueError(f"{entry!r} can not be computed: {error}") from None
    if not 1 <= result <= LONGEST:
        raise ValueError(f"{entry!r} is {result} for n = {n}, p = {p}, which is no length")
    return result


def _value(node: ast.expr, variables: dict[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name) and node.id in variables:
        return variables[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, variables), _value(node.right, variables)
        if isinstance(node.op, ast.Pow) and not (0 <= right <= 32 and abs(left) <= LONGEST):
            raise ValueError(f"{left}**{right} is no length")
        return OPERATORS[type(node.op)](left, right)
    raise ValueError(f"{ast.unparse(node)!r} is neither a whole number, n, p, nor + - * // ** of such")
