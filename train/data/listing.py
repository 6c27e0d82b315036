"""What a reader finds before any pixel is decoded, and expressions over attributes."""

import ast
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from train.errors import UserError, listed, reading

SPLITS = ("train", "val", "test")


@dataclass
class Listing:
    """N images: ids and splits (one of SPLITS each) of length N, attributes (N rows; 1, 0 or NaN for unknown; may have
    no columns), labels (N,) integers or None, and load(i) -> the image at any size and mode, or uint8 (H, W[, 3]).

    fingerprint: changes whenever the pixels could.
    processes: load in several processes (pure Python, picklable) rather than threads.
    licence: a text to lie beside the cached pixels.
    size: (width, height) that every image must have, checked when it is decoded.
    """

    ids: list[str]
    splits: np.ndarray
    load: Callable[[int], Image.Image | np.ndarray]
    fingerprint: str
    attributes: pd.DataFrame
    labels: np.ndarray | None = None
    processes: bool = False
    licence: str | None = None
    size: tuple[int, int] | None = None


def random_splits(count: int, seed: int, val: float = 0.1, test: float = 0.2) -> np.ndarray:
    """A seeded split of `count` images by shares."""
    order = np.random.default_rng(seed).permutation(count)
    splits = np.full(count, "train", dtype="<U5")
    splits[order[: round(test * count)]] = "test"
    splits[order[round(test * count) : round((test + val) * count)]] = "val"
    return splits


def follow(rules: dict[str, float], attributes: pd.DataFrame, splits: np.ndarray, seed: int) -> np.ndarray:
    """Which images to keep, so that each rule holds for its share of those kept in each split, independently of other
    rules: as many as there can be, drawn by `seed`.

    Images in which a named attribute is unknown are left out. Raises UserError for what is no rule. -> bool (N,)
    """
    keep, share = np.zeros(len(attributes), dtype=bool), np.ones(1)
    cell, known = np.zeros(len(attributes), dtype=int), splits != ""
    for rule, strength in rules.items():
        holds, fails = select(rule, attributes), select(f"not ({rule})", attributes)
        cell, known = 2 * cell + holds, known & (holds | fails)
        share = np.outer(share, (1 - strength, strength)).ravel()  # of each cell
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        rows = [rng.permutation(np.flatnonzero(known & (splits == split) & (cell == c))) for c in range(len(share))]
        total = min(len(r) / s for r, s in zip(rows, share) if s > 0)
        for r, s in zip(rows, share):
            keep[r[: int(total * s + 1e-6)]] = True
    return keep


_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _as_python(expression: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """An expression in which names that are none in Python, such as 5_o_Clock_Shadow or T-shirt, have stand-ins; and
    what these stand for. Numbers stay numbers, whatever columns are called."""
    odd = [name for name in names if not name.isidentifier() and re.search(r"[^\W\d]", name)]
    stands_for = {f"_name_{i}_": name for i, name in enumerate(sorted(odd, key=len, reverse=True))}
    pattern = "|".join(f"(?P<{key}>{re.escape(name)})" for key, name in stands_for.items())
    python = re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda found: found.lastgroup, expression) if odd else expression
    return python, stands_for


def select(expression: str, attributes: pd.DataFrame) -> np.ndarray:
    """Which rows satisfy an expression over attribute names: and, or, not, + and comparisons, e.g. "Smiling == (A or
    B)".

    Rows in which a named attribute is unknown do not satisfy it. Raises UserError for other syntax or unknown names. ->
    bool (N,)
    """
    unknown = np.zeros(len(attributes), dtype=bool)
    python, stands_for = _as_python(expression, attributes)

    def value(node: ast.expr) -> np.ndarray:
        match node:
            case ast.Name(id=written):
                name = stands_for.get(written, written)
                if name not in attributes:
                    raise UserError(
                        f"where '{expression}': no attribute '{name}'; there are {listed(attributes.columns, 50)}"
                    )
                column = attributes[name].to_numpy(float)
                unknown[np.isnan(column)] = True
                return np.nan_to_num(column)
            case ast.Constant(value=int() | float() as number):
                return np.full(len(attributes), float(number))
            case ast.BoolOp(op=op, values=values):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return combine.reduce([value(v) != 0 for v in values]).astype(float)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return (value(operand) == 0).astype(float)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return _COMPARE[type(op)](value(left), value(right)).astype(float)
        raise UserError(
            f"where '{expression}': only attribute names, numbers, and, or, not, + "
            "and one comparison at a time are allowed"
        )

    with reading(f"where '{expression:.200}': not an expression"):  # a RecursionError where it is nested too deep
        tree = ast.parse(python, mode="eval")
        return (value(tree.body) != 0) & ~unknown
