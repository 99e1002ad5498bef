"""Importance matrices: how strongly each input column of a weight matters, for the quantizers that weigh errors by it.

For every weight: the sum of the squared activations that met each column, and how many there were, one count for each
matrix (expert). Quantizers take the mean, `in_sum2 / counts`. Source: tools/quantize/quantize.cpp (load_imatrix,
prepare_imatrix) and tools/imatrix/imatrix.cpp (merging, the legacy form) of llama.cpp. Entries are read when they are
asked for, since those of a large mixture of experts are over a gigabyte. Files are opened and written by
checkpoints/importance; computing an importance matrix is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from modelfmt.errors import CorruptFile, UsageError
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["UNSIZED", "Entries", "Entry", "Importance", "from_dat", "from_gguf", "merge"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_GGUF_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_STRING_LIMIT = 127
UNSIZED = ("token_embd.weight", "per_layer_token_embd.weight")
"""Entries that may be of another size, as in llama.cpp: these tensors then go without."""


class Entry(msgspec.Struct, frozen=True):
    """One weight. in_sum2: float32 [n_mat, n_cols], sums of squares. counts: float32 [n_mat], whole numbers."""

    in_sum2: NDArray[np.float32]
    counts: NDArray[np.float32]


class Entries(Mapping[str, Entry]):
    """Entries by name, made when asked for. shapes: (n_mat, n_cols) of each, known before."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], load: Callable[[str], Entry]) -> None:
        self.shapes = shapes
        self._load = load

    def __getitem__(self, name: str) -> Entry:
        if name not in self.shapes:
            raise KeyError(name)
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Importance(msgspec.Struct, frozen=True):
    """An importance matrix; as a collection, that of the names it has weights for.

    entries: made when asked for; raise CorruptFile (importance-value) where a value is NaN, infinite or negative.
    datasets: the texts it was computed from. chunk_count, chunk_size: how many pieces of them, of how many tokens.
    legacy: from a .dat file, where experts lie in one row and a count of 0 leaves the values as they are.
    """

    entries: Entries
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    legacy: bool = False
    path: str | None = None

    @classmethod
    def from_mapping(
        cls,
        entries: Mapping[str, tuple[Any, Any]],
        *,
        datasets: Iterable[str] = (),
        chunk_count: int = 0,
        chunk_size: int = 0,
        legacy: bool = False,
        path: str | None = None,
    ) -> Importance:
        """From name -> (in_sum2 float32 [n_mat, n_cols] or [n_cols], counts float32 [n_mat]).

        Both are arrays, or become ones when they are needed (`shape`, `__array__`). Counts are rounded to whole
        numbers. Raises CorruptFile: importance-empty, importance-shape.

        >>> import numpy as np
        >>> found = Importance.from_mapping({"output.weight": (np.full((1, 4), 6, "f4"), np.array([3], "f4"))})
        >>> found.weights("output.weight")
        array([[2., 2., 2., 2.]], dtype=float32)
        """
        if not entries:
            raise CorruptFile("an importance matrix without entries", code="importance-empty", path=path)
        arrays = {name: (_array(sums), _array(counts)) for name, (sums, counts) in entries.items()}
        shapes = {name: _shape(name, sums, counts, path) for name, (sums, counts) in arrays.items()}

        def load(name: str) -> Entry:
            return _entry(name, *arrays[name], path)

        return cls(Entries(shapes, load), tuple(datasets), int(chunk_count), int(chunk_size), legacy, path)

    @property
    def names(self) -> frozenset[str]:
        """The names it has weights for."""
        return frozenset(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def weights(self, name: str, shape: Sequence[int] | None = None) -> NDArray[np.float32]:
        """What the quantizer gets: float32 [n_mat, n_cols], in_sum2 / counts; ones where nothing was counted.

        shape: of the tensor, row-major; with it the sizes are checked, and the experts of a .dat file told apart.
        Raises UsageError (importance-missing, importance-shape).
        """
        import numpy as np

        if name not in self.entries:
            raise UsageError(
                "no importance weights for this tensor", code="importance-missing", path=self.path, place=name
            )
        if shape is not None and not self.fits(name, shape):
            raise UsageError(
                "the importance matrix is of another model: its size does not match the tensor's",
                code="importance-shape",
                path=self.path,
                place=name,
                found=prod(self.entries.shapes[name]),
                allowed=f"{shape[-1]} x {_n_mat(shape)}",
            )
        entry = self.entries[name]
        counted = entry.counts > 0
        divisor = np.where(counted, entry.counts, 1)[:, None]
        found: NDArray[np.float32] = np.divide(entry.in_sum2, divisor, dtype=np.float32)
        if not self.legacy:
            found[~counted] = 1
        return found if shape is None else found.reshape(-1, shape[-1])

    def fits(self, name: str, shape: Sequence[int]) -> bool:
        """True where the weights are as many as a tensor of this shape needs: columns x experts."""
        n_mat, n_cols = self.entries.shapes[name]
        return n_mat * n_cols == shape[-1] * _n_mat(shape)

    def usable(self, shapes: Mapping[str, Sequence[int]]) -> frozenset[str]:
        """The tensors (name -> shape, row-major) that have weights of their size.

        A token embedding of another size goes without, as in llama.cpp; for others UsageError (importance-shape).
        """
        found = set()
        for name in self.entries.keys() & shapes.keys():
            if self.fits(name, shapes[name]):
                found.add(name)
            elif name not in UNSIZED:
                self.weights(name, shapes[name])
        return frozenset(found)

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Importance:
        """Only entries whose name contains one of `include` (where given) and none of `exclude`."""

        def wanted(name: str) -> bool:
            return (not include or any(part in name for part in include)) and not any(part in name for part in exclude)

        shapes = {name: shape for name, shape in self.entries.shapes.items() if wanted(name)}
        return replace(self, entries=Entries(shapes, self.entries.__getitem__))

    def metadata(self, file: str | None = None) -> list[tuple[str, str, str | int]]:
        """(key, GGUF value type, value) of what llama-quantize writes into the model.

        file: the matrix's name. Strings are cut to 127 bytes, at a character.

        >>> import numpy as np
        >>> found = Importance.from_mapping({"a": (np.ones(4, "f4"), np.ones(1, "f4"))}, datasets=["wiki"])
        >>> [(key, value) for key, _, value in found.metadata("x.gguf")][1:]
        [('quantize.imatrix.dataset', 'wiki'), ('quantize.imatrix.entries_count', 1)]
        """
        rows: list[tuple[str, str, str | int]] = []
        if not self.entries:
            return rows
        file = file if file is not None else self.path
        if file is not None:
            rows.append(("quantize.imatrix.file", "STRING", _cut(file)))
        if self.datasets:
            rows.append(("quantize.imatrix.dataset", "STRING", _cut(self.datasets[0])))
        rows.append(("quantize.imatrix.entries_count", "UINT32", len(self.entries)))
        if self.chunk_count > 0:
            rows.append(("quantize.imatrix.chunks_count", "UINT32", self.chunk_count))
        return rows

    def gguf_metadata(self) -> list[tuple[str, str, Any]]:
        """(key, type, value) of the GGUF form, in llama-imatrix's order."""
        return [
            ("general.type", "STRING", "imatrix"),
            ("imatrix.datasets", "ARRAY:STRING", list(self.datasets)),
            ("imatrix.chunk_count", "UINT32", self.chunk_count),
            ("imatrix.chunk_size", "UINT32", self.chunk_size),
        ]

    def dat_entry(self, name: str) -> tuple[NDArray[np.float32], int] | None:
        """(mean of squares * calls, calls) as llama-imatrix writes it into a .dat file.

        Experts that were never used become ones; None for an entry in which none was. Raises UsageError where the chunk
        size is not known.
        """
        import numpy as np

        entry = self.entries[name]
        if self.legacy:
            return entry.in_sum2.reshape(-1), int(entry.counts[0])
        if self.chunk_size <= 0:
            raise UsageError(
                "the .dat form needs the chunk size", code="chunk-size", path=self.path, found=self.chunk_size
            )
        if not (entry.counts > 0).any():
            return None
        calls = -(-int(entry.counts.max()) // self.chunk_size)
        return (self.weights(name) * np.float32(calls)).reshape(-1), calls


def from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, Any], path: str | None = None) -> Importance:
    """From the metadata and the tensors (arrays, or lazy ones) of a GGUF file of the type `imatrix`.

    Raises CorruptFile: importance-metadata, importance-pair (sums without counts), importance-type, and those of
    `from_mapping`.
    """
    missing = [key for key in _GGUF_KEYS if key not in metadata]
    if missing:
        raise CorruptFile(
            "no metadata of an importance matrix", code="importance-metadata", path=path, place=missing[0]
        )
    datasets, chunk_count, chunk_size = (metadata[key] for key in _GGUF_KEYS)
    if isinstance(datasets, str) or not all(isinstance(name, str) for name in datasets):
        raise CorruptFile("datasets are no names", code="importance-metadata", path=path, place=_GGUF_KEYS[0])
    for key, count in zip(_GGUF_KEYS[1:], (chunk_count, chunk_size), strict=True):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise CorruptFile("not a count", code="importance-metadata", path=path, place=key, found=count)
    names = dict.fromkeys(name.removesuffix(_SUMS).removesuffix(_COUNTS) for name in tensors)
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in names:
        if name in tensors:
            continue  # neither sums nor counts: llama.cpp passes over it
        for part in (name + _SUMS, name + _COUNTS):
            if part not in tensors:
                raise CorruptFile("sums and counts do not come in pairs", code="importance-pair", path=path, place=part)
            stored = tensors[part].encoding.name if isinstance(tensors[part], Tensor) else tensors[part].dtype.name
            if stored not in ("F32", "float32"):
                raise CorruptFile(
                    "sums and counts must be F32", code="importance-type", path=path, place=part, found=stored
                )
        pairs[name] = (tensors[name + _SUMS], tensors[name + _COUNTS])
    return Importance.from_mapping(pairs, datasets=datasets, chunk_count=chunk_count, chunk_size=chunk_size, path=path)


def from_dat(
    entries: Mapping[str, tuple[Any, int]],
    chunk_count: int | None = None,
    dataset: str | None = None,
    path: str | None = None,
) -> Importance:
    """From what formats.imatrix_dat found: its entries, chunk_count and dataset.

    Experts lie in one row: pass the tensor's shape to `weights`. Raises CorruptFile as `from_mapping` does.
    """
    import numpy as np

    return Importance.from_mapping(
        {name: (values, np.array([max(calls, 0)], np.float32)) for name, (values, calls) in entries.items()},
        datasets=() if dataset is None else (dataset,),
        chunk_count=max(chunk_count or 0, 0),
        legacy=True,
        path=path,
    )


def merge(parts: Sequence[Importance], chunk_size: int = 512) -> Importance:
    """One importance matrix from several of the same model: sums and counts are added, as llama-imatrix does.

    chunk_size: tokens of a call, for parts from .dat files, whose counts are of calls; and of the result, where no part
    says. One part alone comes out as it is, in the form that counts tokens. Raises UsageError (importance-shape: sizes
    differ; no-entries), CorruptFile (values).
    """
    if not parts:
        raise UsageError("nothing to merge", code="no-entries")
    known = sorted({part.chunk_size for part in parts if part.chunk_size > 0})
    size = known[0] if known else chunk_size
    shapes: dict[str, tuple[int, int]] = {}
    for part in parts:
        for name, shape in part.entries.shapes.items():
            shapes[name] = _joined(shapes[name], shape, name, part.path) if name in shapes else shape

    def load(name: str) -> Entry:
        found = [_in_tokens(part, name, chunk_size, shapes[name]) for part in parts if name in part.entries]
        return Entry(_sum([entry.in_sum2 for entry in found]), _sum([entry.counts for entry in found]))

    entries = Entries(shapes, load)
    if len(parts) == 1 and not parts[0].legacy:
        chunk_count = parts[0].chunk_count
    else:
        chunk_count = int(max(float(entries[name].counts.max()) for name in entries)) // size
    datasets = tuple(name for part in parts for name in part.datasets)
    return Importance(entries, datasets, chunk_count, size, path=parts[0].path if len(parts) == 1 else None)


def _in_tokens(part: Importance, name: str, chunk_size: int, shape: tuple[int, int]) -> Entry:
    """An entry with counts of tokens, in the shape that it has in the whole."""
    import numpy as np

    entry, factor = part.entries[name], np.float32(chunk_size if part.legacy else 1)
    return Entry((entry.in_sum2 * factor).reshape(shape), np.broadcast_to(entry.counts * factor, shape[0]))


def _sum(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def _joined(one: tuple[int, int], other: tuple[int, int], name: str, path: str | None) -> tuple[int, int]:
    """The shape of two entries that are added: a .dat file does not tell experts apart."""
    n_mat = max(one[0], other[0])
    if prod(one) != prod(other) or {one[0], other[0]} - {1, n_mat}:
        raise UsageError(
            "importance matrices of different models",
            code="importance-shape",
            path=path,
            place=name,
            found=other,
            allowed=one,
        )
    return n_mat, prod(one) // n_mat


def _array(values: Any) -> Any:
    """Values as they are where they have a shape, read or not; else an array of them."""
    import numpy as np

    return values if hasattr(values, "shape") else np.asarray(values, np.float32)


def _shape(name: str, sums: Any, counts: Any, path: str | None) -> tuple[int, int]:
    """(n_mat, n_cols) of what is, or will be, two arrays."""
    n_sums, n_counts = prod(sums.shape), prod(counts.shape)
    if n_sums == 0 or n_counts == 0 or n_sums % n_counts:
        raise CorruptFile(
            "sums do not divide into one row for each count",
            code="importance-shape",
            path=path,
            place=name,
            found=f"{n_sums} sums, {n_counts} counts",
        )
    return n_counts, n_sums // n_counts


def _entry(name: str, sums: Any, counts: Any, path: str | None) -> Entry:
    import numpy as np

    sums = np.ascontiguousarray(sums, np.float32)
    counts = np.ascontiguousarray(counts, np.float32).reshape(-1)
    checks: tuple[tuple[str, Any, Callable[[Any], Any]], ...] = (
        ("sums", sums, np.isfinite),
        ("counts", counts, np.isfinite),
        ("sums", sums, lambda values: values >= 0),
    )
    for what, values, good in checks:
        if not np.all(good(values)):
            bad = np.flatnonzero(~good(values.reshape(-1)))[0]
            raise CorruptFile(
                f"importance {what} must be finite and not negative",
                code="importance-value",
                path=path,
                place=f"{name}, value {bad}",
                found=float(values.reshape(-1)[bad]),
            )
    whole = np.floor(np.abs(counts.astype(np.float64)) + 0.5) * np.sign(counts)  # lround: halves away from zero
    return Entry(sums.reshape(counts.size, -1), whole.astype(np.float32))


def _n_mat(shape: Sequence[int]) -> int:
    return prod(shape[:-2])


def _cut(text: str) -> str:
    return text.encode()[:_STRING_LIMIT].decode(errors="ignore")
