"""Whether a quantized tensor can be another type exactly, nearly, or only by quantizing it again; and which it becomes.

A verdict is checked on the data. Scales and zeros are read whole; where they alone prove that every code of the scheme
has its place, no code is read; otherwise the codes are looked at until the first that has none. The error of a near
verdict is that of rounding scales and offsets, over the largest magnitude that the group's grid reaches. The
mathematics and the table of pairs: docs/transcoding.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import frexp, isfinite, lcm
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from modelfmt import _kernels, grids
from modelfmt.errors import LossyError, UsageError
from modelfmt.ir import grid
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.ops import (
    Cast,
    Coded,
    Constant,
    Expression,
    Nearest,
    Param,
    Reader,
    Regrid,
    Widened,
    geometry,
    nodes,
    row_bytes,
    with_inputs,
)
from modelfmt.kernels import convert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AUTO",
    "DENSE",
    "Move",
    "Policy",
    "Verdict",
    "can_encode",
    "choose",
    "e4m3_scales",
    "is_grid",
    "label",
    "policy",
    "powers",
    "rounding",
    "single",
    "verdict",
    "without_tensor_scale",
    "zeros",
]

AUTO = "auto"
NEAR = 1e-3
"""What `auto` and `any` take for near: rounding to float16 (2^-11) is, to bfloat16 (2^-8) is not."""

DENSE = {"BF16": (8, -133, 127), "F16": (11, -24, 15), "F32": (24, -149, 127)}
"""Dense type -> significant bits, exponent of its least number, largest exponent."""

_CHUNK = 1 << 22  # bytes of records at once
_SIGNIFICANT = {"E2M1": (2, -1), "E4M3": (4, -9), "E5M2": (3, -16)}
"""Table -> significant bits of its values, exponent of the least."""


class Verdict(msgspec.Struct, frozen=True):
    """exact: the same real numbers. near: within `bound`, relative to the largest magnitude of the group's grid.
    requantize: neither."""

    kind: str
    bound: float | None = None

    def __str__(self) -> str:
        return self.kind if self.bound in (None, 0.0) else f"{self.kind} {self.bound:.1e}"


EXACT, REQUANTIZE = Verdict("exact", 0.0), Verdict("requantize")


class Policy(msgspec.Struct, frozen=True):
    """What may become of a tensor. name: auto, exact, near or any; bound: of near."""

    name: str
    bound: float

    def takes(self, verdict: Verdict) -> bool:
        """Whether a verdict is good enough."""
        return verdict.bound is not None and verdict.bound <= self.bound


class Move(msgspec.Struct, frozen=True):
    """What becomes of a tensor: its encoding, how exactly, from which expression; scale: one of the whole tensor, to be
    stored beside it."""

    encoding: str
    verdict: Verdict
    expr: Expression
    scale: Expression | None = None


def policy(text: str) -> Policy:
    """A policy from text: auto, exact, near:BOUND or any. Raises UsageError.

    >>> policy("near:1e-3")
    Policy(name='near', bound=0.001)
    """
    name, colon, number = text.partition(":")
    try:
        bound = float(number) if colon else {"exact": 0.0}.get(name, NEAR)
    except ValueError:
        bound = -1.0
    if name not in (AUTO, "exact", "near", "any") or not 0.0 <= bound < 1.0 or (colon and name != "near"):
        raise UsageError(
            "no such policy of transcoding", code="transcode-policy", found=text, allowed="auto, exact, near:1e-3, any"
        )
    return Policy(name, bound)


def is_grid(expr: Expression) -> bool:
    """True for the rows of a grid, which can be moved."""
    return expr.stored.name.startswith("GRID:")


def label(expr: Expression) -> str:
    """What a source is, for people: the scheme of its codes, else its encoding."""
    found = next((node.label for node in nodes(expr) if isinstance(node, Coded)), "")
    blocks = next((node.input.stored.name for node in nodes(expr) if isinstance(node, Regrid)), "")
    return (found or blocks) if (found or blocks) and is_grid(expr) else expr.stored.name


def can_encode(expr: Expression, target: str, reader: Reader, *, at_most: float = 1.0) -> Verdict:
    """What the rows of a grid are as another encoding, checked on the data. at_most: larger bounds are as good as none.

    target: a type of `modelfmt.grids.BLOCKS` or of DENSE; every other one requantizes.
    """
    own = grid.parse(expr.stored.name)
    if target in DENSE:
        return _dense(expr, own, target, reader)
    if target not in grids.BLOCKS or own.n_cols % ENCODINGS[target].block_elements:
        return REQUANTIZE
    if own.integer == (target in ("MXFP4", "NVFP4")) or not (own.integer or own.table == "E2M1"):
        return REQUANTIZE
    if _plain(expr, own, target, reader) or _same_scales(expr, own, target):
        return EXACT
    if not _probed(expr, target, reader, at_most):
        return REQUANTIZE
    bound = _proved(expr, own, target, reader)
    if bound is None or bound > at_most:
        bound = _seen(expr, own, target, reader, at_most)
    return verdict(bound, at_most)


def verdict(bound: float | None, at_most: float = 1.0) -> Verdict:
    """The verdict of a bound: None and what is above at_most requantizes.

    >>> str(verdict(0.0)), str(verdict(4e-4)), str(verdict(None))
    ('exact', 'near 4.0e-04', 'requantize')
    """
    return REQUANTIZE if bound is None or bound > at_most else EXACT if bound == 0.0 else Verdict("near", bound)


def choose(expr: Expression, wanted: Policy, reader: Reader, *, name: str = "") -> Move:
    """The smallest type that a policy allows. Raises LossyError (transcode) where none is."""
    tried: list[tuple[str, Verdict]] = []
    exact = Policy("exact", 0.0)
    rounds: Sequence[tuple[Policy, Sequence[str]]] = [(wanted, (*grids.BLOCKS, *DENSE))]
    if wanted.name == AUTO:
        rounds = [(exact, grids.BLOCKS), (exact, ("BF16", "F16")), (wanted, (*grids.BLOCKS, *DENSE))]
    elif wanted.name == "any":
        rounds = [(wanted, grids.BLOCKS)]
    known: dict[str, Move] = {}
    for allowed, targets in rounds:
        for target in targets:
            move = known.get(target)
            if move is None or (move.verdict.kind == "requantize" and allowed.bound > 0.0):
                move = known[target] = _move(expr, target, reader, allowed.bound)
            if allowed.takes(move.verdict):
                return move
            tried.append((target, move.verdict))
    if wanted.name == "any":
        return Move("Q8_0", REQUANTIZE, expr)
    raise LossyError(
        "no type holds this tensor as exactly as asked",
        code="transcode",
        place=name,
        found=f"{label(expr)}: " + ", ".join(f"{target} {verdict}" for target, verdict in tried),
        allowed=f"{wanted.name}, {wanted.bound:g}",
        hint="allow an error (--transcode near:1e-3), or requantization (--transcode any --allow-requantize)",
    )


def _move(expr: Expression, target: str, reader: Reader, at_most: float) -> Move:
    if target == "NVFP4":
        inner, scale, off = without_tensor_scale(expr, reader)
        found = can_encode(inner, target, reader, at_most=at_most)
        if found.bound is not None and off:
            found = verdict(max(found.bound, off), at_most)
        return Move(target, found, inner, scale)
    return Move(target, can_encode(expr, target, reader, at_most=at_most), expr)


def without_tensor_scale(expr: Expression, reader: Reader) -> tuple[Expression, Expression | None, float]:
    """A tensor without the scale of its whole, that scale, and what rounding its reciprocal to float32 costs."""
    found: list[Param] = []

    def strip(part: Expression) -> Expression:
        if isinstance(part, Coded):
            whole = [param for param in part.scales if param.rows == 0 and param.group == 0]
            if len(whole) == 1 and len(part.scales) > 1:
                found.extend(whole)
                return msgspec.structs.replace(part, scales=tuple(p for p in part.scales if p is not whole[0]))
            return part
        if isinstance(part, Regrid) and part.whole is not None and part.whole.rows == 0:
            found.append(part.whole)
            return msgspec.structs.replace(part, whole=None)
        return with_inputs(part, strip)

    inner = strip(expr)
    if len(found) != 1:
        return expr, None, 0.0
    if not found[0].divide:
        return inner, found[0].input, 0.0
    divisor = float(reader.values(found[0].input, 0, 1)[0, 0])
    if not divisor or not isfinite(divisor):
        return expr, None, 0.0
    rounded = single(1.0 / divisor)
    if not isfinite(rounded):
        return expr, None, 0.0
    return inner, Constant(struct.pack("<f", rounded), (1, 1), "F32"), abs(rounded * divisor - 1.0)


class _Fits(NamedTuple):
    """The dense types that have every value, and the largest magnitude."""

    types: frozenset[str]
    largest: float


class _Seen(msgspec.Struct):
    """What was looked at of one open model, since several types ask the same."""

    fits: dict[Expression, _Fits] = msgspec.field(default_factory=dict)
    zeros: dict[Coded, tuple[float, float]] = msgspec.field(default_factory=dict)
    corners: dict[Expression, tuple[str, NDArray[np.uint8]]] = msgspec.field(default_factory=dict)


_SEEN: WeakKeyDictionary[Reader, _Seen] = WeakKeyDictionary()


def _seen_by(reader: Reader) -> _Seen:
    return _SEEN.setdefault(reader, _Seen())


def _planes(expr: Expression, reader: Reader) -> Iterator[tuple[int, grids.Planes]]:
    """How many groups, and their scales, offsets and zeros, some rows at a time; in any order."""
    import numpy as np

    for source in grids.sources(expr):
        own, n_rows = grid.parse(source.stored.name), geometry(source.shape, source.stored)[0]
        n_groups = own.n_cols // own.group
        step = max(8, _CHUNK // (n_groups * grid.RECORD) // 8 * 8)
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            columns = np.arange(n_groups) * own.group
            yield (stop - start) * n_groups, grids.planes_of(source, (start, stop), columns, reader)


def _records(expr: Expression, reader: Reader) -> Iterator[NDArray[np.float64]]:
    """scale, offset and zero of every group: float64 [n, 3], some rows at a time."""
    import numpy as np

    only = grids.records_of(expr)
    n_rows = geometry(only.shape, only.stored)[0]
    step = max(8, _CHUNK // max(row_bytes(only), 1) // 8 * 8)
    for start in range(0, n_rows, step):
        rows = reader.rows(only, start, min(start + step, n_rows))
        yield np.ascontiguousarray(rows).view(np.float64).reshape(-1, 3)


_SYMMETRIC = {"Q4_0": (8, 15), "Q5_0": (16, 31), "Q8_0": (128, 255), "Q2_0": (1, 3), "TQ2_0": (1, 2)}
"""Type without minimum -> its zero and its largest code."""


def _plain(expr: Expression, own: grid.Grid, target: str, reader: Reader) -> bool:
    """Whether a type holds every code of the scheme and every scale that there is, as the parts' own types tell."""
    if target not in _SYMMETRIC or own.group % ENCODINGS[target].block_elements:
        return False
    middle, top = _SYMMETRIC[target]
    if own.limit > top or any(isinstance(node, Widened) for node in nodes(expr)):
        return False
    for node in nodes(expr):
        if isinstance(node, Coded):
            bounds = _zero_bounds(node)
            fits = bounds is not None and (
                _fits(*bounds, own.limit, middle, top) or _fits(*_zeros_of(node, reader), own.limit, middle, top)
            )
            if not fits or not scales_fit(node, "F16", reader):
                return False
        elif is_grid(node) and not any(map(is_grid, node.inputs)):
            return False
    return True


_SCALES = {"MXFP4": "F8_E8M0"}
"""Type of four-bit floats -> the type of its scales, where any number of that is one."""


def _same_scales(expr: Expression, own: grid.Grid, target: str) -> bool:
    """Whether every scale is stored as the blocks of a type of floats store theirs: none has to be looked at."""
    if target not in _SCALES or own.group % ENCODINGS[target].block_elements:
        return False
    plain = [(_SCALES[target], False)]
    sources = (node for node in nodes(expr) if is_grid(node) and not any(map(is_grid, node.inputs)))
    return all(
        isinstance(node, Coded)
        and node.offset is None
        and node.zero == 0.0
        and [(scale.input.stored.name, scale.divide) for scale in node.scales] == plain
        for node in sources
    )


def _fits(least: float, most: float, limit: int, middle: int, top: int) -> bool:
    plain = middle - most >= 0 and limit + middle - least <= top
    return plain or (middle + least - limit >= 0 and middle + most <= top)


def _zeros_of(node: Coded, reader: Reader) -> tuple[float, float]:
    seen = _seen_by(reader).zeros
    if node not in seen:
        seen[node] = grids.zeros_of(node, reader)
    return seen[node]


def _zero_bounds(node: Coded) -> tuple[float, float] | None:
    """The zeros that a scheme can have, where its form tells."""
    if node.offset is not None:
        return None
    if not isinstance(node.zero, Param):
        return (node.zero, node.zero) if node.zero.is_integer() else None
    return (0.0, float((1 << node.zero.bits) - 1)) if node.zero.bits and not node.zero.plus else None


def scales_fit(node: Coded, encoding: str, reader: Reader) -> bool:
    """Whether every scale of a tensor with one level of them is a number of a dense type."""
    if len(node.scales) != 1 or node.scales[0].divide:
        return False
    expr = node.scales[0].input
    return expr.stored.name == encoding or encoding in _fits_of(expr, reader).types


def _fits_of(expr: Expression, reader: Reader) -> _Fits:
    seen = _seen_by(reader).fits
    if expr not in seen:
        seen[expr] = _fitting(expr, reader)
    return seen[expr]


def _fitting(expr: Expression, reader: Reader) -> _Fits:
    import numpy as np

    fits, largest = set(DENSE), 0.0
    for given in _numbers(expr, reader):
        largest = max(largest, float(given.max(initial=0.0)), -float(given.min(initial=0.0)))
        for encoding in fits - {"F32"}:
            narrow = np.empty((1, 2 * given.size), np.uint8)
            convert("F32", given, encoding, narrow, 1, given.size)
            if not np.array_equal(grids.decode(narrow, encoding, given.size)[0], given):
                fits.remove(encoding)
    return _Fits(frozenset(fits), largest)


def _numbers(expr: Expression, reader: Reader) -> Iterator[NDArray[np.float32]]:
    """Every number of a dense expression, flat, some at a time; of 16 bits, each of those that occur once."""
    import numpy as np

    n_rows, n_cols = geometry(expr.shape, expr.stored)
    step, words = max(1, _CHUNK // max(4 * n_cols, 1)), np.zeros(1 << 16, np.uint8)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        if expr.stored.name in ("F16", "BF16"):
            _kernels.mark_words(np.ascontiguousarray(reader.rows(expr, start, stop)), words)
        else:
            yield np.ascontiguousarray(reader.values(expr, start, stop)).reshape(-1)
    seen = np.flatnonzero(words).astype("<u2")
    if seen.size:
        yield grids.decode(seen.view(np.uint8)[None], expr.stored.name, seen.size)[0]


def _probed(expr: Expression, target: str, reader: Reader, at_most: float) -> bool:
    """False where a corner of the tensor already has a code or a scale without a place."""
    corners = _seen_by(reader).corners
    if expr not in corners:
        corners.clear()
        own = grid.parse(expr.stored.name)
        width = lcm(own.group, 256)  # a multiple of every block
        window = grids.restricted(expr, 0, width, own.group) if width < own.n_cols and own.n_cols % width == 0 else expr
        n_rows = min(16, geometry(expr.shape, expr.stored)[0])
        corners[expr] = window.stored.name, reader.rows(window, 0, n_rows)
    name, rows = corners[expr]
    found = grids.fit(rows, name, target)
    return found is not None and found <= at_most


def _proved(expr: Expression, own: grid.Grid, target: str, reader: Reader) -> float | None:
    """The bound for every code that the grid has, from its records alone; None where some have no place."""
    import numpy as np

    elements = 16 if target == "NVFP4" else ENCODINGS[target].block_elements
    if own.group % elements:
        return None
    width = ENCODINGS[target].block_elements
    worst = 0.0
    for records in _records(expr, reader):
        records = _distinct(records)
        spare = -len(records) % (width // elements)
        records = np.concatenate([records, np.repeat(records[:1], spare, axis=0)])
        codes = np.zeros((len(records), elements), np.uint8)
        codes[:, 1] = own.limit
        row = np.concatenate([records.reshape(-1).view(np.uint8), codes.reshape(-1)])
        found = grids.fit(row[None], grid.grid_name(own.table, elements, codes.size), target)
        if found is None:
            return None
        worst = max(worst, found)
    return worst


def _distinct(records: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fewer records that say the same, where neighbours are alike (rows or tensors with one scale)."""
    import numpy as np

    if len(records) < 2:
        return records
    differs = np.any(records[1:] != records[:-1], axis=1)
    kept: NDArray[np.float64] = records[np.concatenate([[True], differs])]
    return kept


def _seen(expr: Expression, own: grid.Grid, target: str, reader: Reader, at_most: float) -> float | None:
    """The bound for the codes that are there; None with the first that has no place."""
    n_rows = geometry(expr.shape, expr.stored)[0]
    step, start, worst = 8, 0, 0.0
    while start < n_rows:
        stop = min(start + step, n_rows)
        found = grids.fit(reader.rows(expr, start, stop), expr.stored.name, target)
        if found is None or found > at_most:
            return None
        start, step = stop, min(step * 4, max(8, (1 << 20) // own.n_cols // 8 * 8))
        worst = max(worst, found)
    return worst


def _dense(expr: Expression, own: grid.Grid, target: str, reader: Reader) -> Verdict:
    """Whether products of scale and code fit the significant bits of a dense type."""
    import numpy as np

    bits, least, largest = DENSE[target]
    exact, worst = True, 0.0
    own_bits, own_least = _SIGNIFICANT.get(own.table, (None, 0))
    for records in _records(expr, reader):
        scale, offset, zero = _distinct(records).T
        widest = np.maximum(np.abs(zero), np.abs(own.limit - zero)) if own.integer else np.full_like(scale, _top(own))
        reach = np.abs(scale) * widest + np.abs(offset)
        if reach.max(initial=0.0) >= 2.0 ** (largest + 1):
            return REQUANTIZE
        mantissa, exponent = np.frexp(scale)
        whole = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
        trailing = np.where(whole == 0, 53, np.log2((whole & -whole).astype(np.float64) + (whole == 0)))
        code_bits: Any = np.ceil(np.log2(widest + 1)) if own.integer else (own_bits or 64)
        ends = (exponent - 53 + trailing + own_least >= least) & (offset == 0.0) & (zero == np.rint(zero))
        ends &= own.integer or own_bits is not None
        fits = (53 - trailing + code_bits <= bits) & ends
        exact = exact and bool(np.all(fits | (scale == 0.0)))
        with np.errstate(divide="ignore", invalid="ignore"):  # multiples of the least number lose nothing below normal
            tiny = np.where((reach > 0.0) & ~ends, 2.0 ** (least - 1) / reach, 0.0)
        worst = max(worst, 2.0**-bits, float(tiny.max(initial=0.0)))
    return EXACT if exact else Verdict("near", worst)


def rounding(
    expr: Expression, reader: Reader, *, scale: str, offset: str | None = None, rezero: float | None = None
) -> float:
    """The bound of storing scales as one dense type and, with `offset`, offset - scale * zero as another.

    rezero: the codes are moved so that this is their zero. Without offset, zeros must be whole and offsets nothing:
    what is left of them counts. Infinity where a number has no place.
    """
    if isinstance(expr, Nearest):  # its scales were rounded to their type before codes were chosen
        return 0.0 if scale in (expr.scale, "F32") and rezero is None else float("inf")
    own, worst = grid.parse(expr.stored.name), 0.0
    coded = _sources(expr)
    whole = len(coded) == sum(is_grid(node) and not any(map(is_grid, node.inputs)) for node in nodes(expr))
    if coded and whole and all(_kept(node, reader, scale=scale, offset=offset, rezero=rezero) for node in coded):
        return 0.0
    limit = float(own.limit) if own.integer else _top(own)
    for count, planes in _planes(expr, reader):
        worst = max(worst, grids.storing(planes, count, limit, own.integer, scale, offset, rezero))
    return worst


def _top(own: grid.Grid) -> float:
    """The largest magnitude in a table."""
    return max((abs(value) for value in grid.values(own.table) or () if value == value), default=0.0)


def _kept(node: Coded, reader: Reader, *, scale: str, offset: str | None, rezero: float | None) -> bool:
    """Whether scales, and offsets that are these times a power of two, are numbers of the types, as far as the parts'
    own types tell."""
    if not _zero_bounds(node) or not scales_fit(node, scale, reader):
        return False
    if offset is None:
        return True
    times = node.zero if rezero is None else rezero
    if isinstance(times, Param) or scale != offset:
        return False
    whole = times == 0.0 or (abs(times) >= 1.0 and frexp(abs(times))[0] == 0.5)
    return whole and _fits_of(node.scales[0].input, reader).largest * abs(times) < 2.0 ** DENSE[scale][2]


def _sources(expr: Expression) -> list[Coded]:
    """The tensors of codes behind a grid, where their zeros are its own."""
    found = nodes(expr)
    return [] if any(isinstance(node, Widened) for node in found) else [n for n in found if isinstance(n, Coded)]


def _whole_zeros(scale: Any, offset: Any, zero: Any) -> Any:
    """The whole numbers nearest to the zeros that say the same as zero and offset."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.rint(zero - np.where(scale == 0.0, 0.0, offset / scale))


def zeros(expr: Expression, reader: Reader) -> tuple[float, float]:
    """The smallest and the largest whole zero of a grid."""
    if isinstance(expr, Nearest):
        return expr.zeros
    coded = _sources(expr)
    low, high = float("inf"), float("-inf")
    if coded and all(_zero_bounds(node) is not None for node in coded):
        stored = [_zeros_of(node, reader) for node in coded]
        return min(pair[0] for pair in stored), max(pair[1] for pair in stored)
    for records in _records(expr, reader):
        found = _whole_zeros(*records.T)
        low, high = min(low, float(found.min(initial=low))), max(high, float(found.max(initial=high)))
    return low, high


def powers(expr: Expression, reader: Reader) -> bool:
    """True where every scale is a power of two that an E8M0 byte holds."""
    import numpy as np

    if isinstance(expr, Nearest):
        return expr.rule.stored.startswith("power")
    if isinstance(expr, Regrid) and isinstance(expr.input, Cast) and expr.input.encoding == "MXFP4":
        return True
    for records in _records(expr, reader):
        fraction, exponent = np.frexp(records[:, 0])
        if not np.all((fraction == 0.5) & (exponent > -127) & (exponent <= 128)) or records[:, 1:].any():
            return False
    return True


def e4m3_scales(expr: Expression, reader: Reader) -> bool:
    """True where every scale is an E4M3 number that is not negative, and there is nothing else."""
    import numpy as np

    if isinstance(expr, Nearest):
        return expr.rule.stored == "E4M3"
    for records in _records(expr, reader):
        scales = records[:, 0]
        if not np.array_equal(_rounded(np.clip(scales, 0.0, 448.0), "F8_E4M3"), scales) or records[:, 1:].any():
            return False
    return True


def single(value: float) -> float:
    """A number as float32 has it, which is infinite where it is too large."""
    try:
        found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf")
    return found


def _rounded(numbers: Any, encoding: str) -> Any:
    import ml_dtypes
    import numpy as np

    name = ENCODINGS[encoding].numpy
    with np.errstate(over="ignore"):
        return numbers.astype(getattr(ml_dtypes, name, None) or np.dtype(name)).astype(np.float64)
