"""An estimator's attributes, each checked when it is asked for: shape, type, range.

Nothing here trusts the file: an array that is not of the shape that the others say is a CorruptFile, a parameter that
has no nodes an UnsupportedError, both with the estimator's place in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelfmt.errors import CorruptFile, LimitExceeded, ModelfmtError, UnsupportedError
from modelfmt.graphs.classical.nodes import MAX_WIDTH
from modelfmt.ir.record import Name, Objects, Record, Texts
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

__all__ = ["MAX_CELLS", "MAX_WIDTH", "Fields"]

MAX_READ = 8 << 30
MAX_CELLS = 1 << 27
_MISSING: Any = object()


class Fields:
    """A record and its place. read: bytes of arrays that were read so far, of all estimators of the file."""

    def __init__(self, record: Record, place: str, path: str, read: list[int] | None = None) -> None:
        self.record = record
        self.place = place
        self.path = path
        self._read = [0] if read is None else read

    def __contains__(self, name: str) -> bool:
        return name in self.record

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute as it is."""
        return self.record.get(name, default)

    def first(self, *names: str) -> str:
        """The first of several names, of different releases, that the file has; the first where it has none."""
        return next((name for name in names if self.record.get(name) is not None), names[0])

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A finite number."""
        value = self.record.get(name, default)
        if isinstance(value, Tensor) and value.n_elements == 1:
            value = float(self.read(value, name).reshape(-1)[0])
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e300:
            raise self.corrupt("a number is wanted", name, value)
        return float(value)

    def integer(self, name: str, low: int, high: int, default: Any = _MISSING) -> int:
        """An integer within bounds."""
        value = self.record.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self.corrupt("an integer out of range", name, value, f"{low} to {high}")
        return value

    def flag(self, name: str, default: Any = _MISSING) -> bool:
        """True or False."""
        value = self.record.get(name, default)
        if value not in (True, False) or not isinstance(value, bool | int):
            raise self.corrupt("True or False is wanted", name, value)
        return bool(value)

    def choice(self, name: str, allowed: Sequence[Any], default: Any = _MISSING) -> Any:
        """A parameter, one of those that nodes can be made for. Raises UnsupportedError for any other."""
        value = self.record.get(name, default)
        for one in allowed:
            if type(one) is type(value) and one == value:
                return one
        raise self.refused(f"{self.record.name} is not converted with this parameter", name, value, allowed)

    def array(self, name: str, *shape: int | None) -> Array:
        """Numbers as float64, of a shape (None: any size)."""
        return self.shaped(self.record.get(name), name, *shape)

    def shaped(self, value: Any, name: str, *shape: int | None) -> Array:
        """The same of a value that is held some way down."""
        found = self.read(value, name)
        fits = len(found.shape) == len(shape) and all(
            want is None or size == want for size, want in zip(found.shape, shape, strict=True)
        )
        if not fits or found.dtype.kind not in "fiub":
            allowed = f"[{', '.join('any' if n is None else str(n) for n in shape)}]"
            raise self.corrupt("an array of another shape", name, f"{found.dtype} {list(found.shape)}", allowed)
        return found.astype(np.float64)

    def integers(self, name: str, *shape: int | None, low: int, high: int) -> Array:
        """Integers as int64, of a shape and within bounds."""
        return self.whole(self.record.get(name), name, *shape, low=low, high=high)

    def whole(self, value: Any, name: str, *shape: int | None, low: int, high: int) -> Array:
        """The same of a value that is held some way down."""
        found = self.shaped(value, name, *shape)
        if found.size and not (np.all(found == np.floor(found)) and found.min() >= low and found.max() <= high):
            raise self.corrupt("integers out of range", name, f"{found.min()} to {found.max()}", f"{low} to {high}")
        return found.astype(np.int64)

    def read(self, value: Any, name: str) -> Array:
        """An array or a (nested) list of numbers, as it is; sparse matrices become dense ones."""
        if isinstance(value, Record):
            return self._dense(value, name)
        if isinstance(value, Tensor):
            self._read[0] += value.nbytes
            if self._read[0] > MAX_READ:
                raise LimitExceeded(
                    "arrays are used too often", code="estimator-size", path=self.path, place=self.at(name)
                )
            if value.encoding.numpy is None or not value.encoding.dense:
                raise self.corrupt("an array of numbers is wanted", name, value.kind)
            return np.asarray(value.numpy())
        if isinstance(value, list | tuple) and len(value) <= MAX_WIDTH:
            flat = [item for item in value if type(item) in (int, float, bool)]
            if len(flat) == len(value) and all(abs(item) < 2**63 or not math.isfinite(item) for item in flat):
                return np.asarray(value)
        raise self.corrupt("an array of numbers is wanted", name, _brief(value))

    def _dense(self, record: Record, name: str) -> Array:
        """A sparse matrix in rows (csr) as a dense one."""
        shape = record.get("_shape") or record.get("shape")
        if isinstance(shape, Tensor):
            shape = tuple(int(n) for n in self.read(shape, name).reshape(-1)[:3])
        kind = record.name
        if kind not in ("csr_matrix", "csr_array") or not isinstance(shape, tuple) or len(shape) != 2:
            raise self.refused("sparse matrices of this kind are not read", name, record.type, ("csr_matrix",))
        if not all(type(n) is int and n >= 0 for n in shape) or shape[0] * shape[1] > MAX_CELLS:
            raise self.corrupt("a sparse matrix is too large", name, shape)
        inner = Fields(record, self.at(name), self.path, self._read)
        data = inner.array("data", None)
        columns = inner.integers("indices", len(data), low=0, high=max(shape[1] - 1, 0))
        ends = inner.integers("indptr", shape[0] + 1, low=0, high=len(data))
        if ends[0] != 0 or ends[-1] != len(data) or np.any(np.diff(ends) < 0):
            raise self.corrupt("rows of a sparse matrix are out of order", name, None)
        dense = np.zeros(shape)
        np.add.at(dense, (np.repeat(np.arange(shape[0]), np.diff(ends)), columns), data)
        return dense

    def zeros(self, name: str, rows: int, columns: int) -> Array:
        """A table to fill in, of a size that numbers from the file decide. Raises LimitExceeded."""
        if rows * columns > MAX_CELLS:
            raise LimitExceeded(
                "a table that follows from the file would be too large",
                code="estimator-size",
                path=self.path,
                place=self.at(name),
                found=f"{rows} x {columns}",
                allowed=f"{MAX_CELLS} numbers",
            )
        return np.zeros((rows, columns))

    def units(self, name: str, places: Array, columns: int) -> Array:
        """Rows that are zero but for a 1 at a place each. Raises LimitExceeded."""
        table = self.zeros(name, len(places), columns)
        table[np.arange(len(places)), places] = 1
        return table

    def classes(self, name: str = "classes_") -> Array:
        """Labels of classes: int64, float64, bool or texts (object), at least one, as the file has them."""
        return self.labels(self.record.get(name), name)

    def labels(self, value: Any, name: str) -> Array:
        """Labels that are held some way down."""
        if isinstance(value, Texts) and value.unicode and len(value.shape) == 1:
            found = np.asarray(value.tolist(), object)
        elif isinstance(value, Objects) and len(value.shape) == 1:
            found = _alike(value.items)
        elif isinstance(value, list):
            found = _alike(value)
        elif isinstance(value, Tensor):
            found = self.read(value, name)
        else:
            raise self.corrupt("labels of classes are wanted", name, _brief(value))
        if found.ndim != 1 or not 1 <= len(found) <= MAX_WIDTH or found.dtype.kind not in "biufO":
            raise self.refused(
                "labels of this kind are not converted",
                name,
                f"{found.dtype} {list(found.shape)}",
                ("numbers or texts",),
            )
        kinds = {"i": np.int64, "u": np.int64, "f": np.float64}
        return found.astype(kinds.get(found.dtype.kind, found.dtype))

    def inner(self, name: str) -> Record:
        """An estimator that this one holds."""
        value = self.record.get(name)
        if not isinstance(value, Record):
            raise self.corrupt("an estimator is wanted", name, _brief(value))
        return value

    def inners(self, name: str) -> list[Record]:
        """Estimators that this one holds: a list, or an array of objects in row-major order."""
        value = self.record.get(name)
        found = value.items if isinstance(value, Objects) else list(value) if isinstance(value, tuple) else value
        if not isinstance(found, list) or not found or not all(isinstance(one, Record) for one in found):
            raise self.corrupt("a list of estimators is wanted", name, _brief(value))
        return found

    def of(self, record: Record, name: str) -> Fields:
        """The fields of a record that this one holds."""
        return Fields(record, self.at(name), self.path, self._read)

    def at(self, name: str) -> str:
        """The place of an attribute in the file."""
        return f"{self.place}.{name}" if self.place else name

    def corrupt(self, message: str, name: str, found: Any, allowed: Any = None) -> ModelfmtError:
        """Values that no fitted estimator has."""
        return CorruptFile(
            message, code="estimator-value", path=self.path, place=self.at(name), found=_brief(found), allowed=allowed
        )

    def refused(self, message: str, name: str, found: Any, allowed: Sequence[Any]) -> ModelfmtError:
        """What a real estimator may well have, but has no nodes."""
        return UnsupportedError(
            message,
            code="estimator-parameter",
            path=self.path,
            place=self.at(name),
            found=_brief(found),
            allowed=", ".join(map(str, allowed)),
        )


def _alike(items: list[Any]) -> Array:
    """Labels that were pickled as objects: texts, or numbers of one type."""
    kinds = {type(one) for one in items}
    if kinds == {str}:
        return np.asarray(items, object)
    if len(kinds) == 1 and kinds <= {int, float, bool} and all(abs(one) < 2**63 for one in items):
        return np.asarray(items)
    return np.empty((0, 0))


def _brief(value: Any) -> str:
    if isinstance(value, Name):
        return str(value)[:80]
    text = f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple | dict) else repr(value)
    return text[:80]
