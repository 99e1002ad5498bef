"""Importance matrices: how strongly each input column of a weight matters, for the quantizers that weigh errors by it.

For every weight: the sum of the squared activations that met each column, and how many there were, one count for each
matrix (expert). Quantizers take the mean, `in_sum2 / counts`. Source: tools/quantize/quantize.cpp (load_imatrix,
prepare_imatrix) and tools/imatrix/imatrix.cpp (merging, the legacy form) of llama.cpp. Files are read by the GGUF
format and formats/imatrix_dat; computing an importance matrix is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from modelfmt.errors import CorruptFile, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Entry", "Importance", "from_dat", "from_gguf", "merge"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_GGUF_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_STRING_LIMIT = 127
_UNSIZED = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class Entry:
    """One weight. in_sum2: float32 [n_mat, n_cols], sums of squares. counts: float32 [n_mat], whole numbers."""

    in_sum2: NDArray[np.float32]
    counts: NDArray[np.float32]


@dataclass(frozen=True)
class Importance:
    """An importance matrix; as a collection, that of the names it has weights for.

    datasets: the texts it was computed from. chunk_count, chunk_size: how many pieces of them, of how many tokens.
    legacy: from a .dat file, where experts lie in one row and a count of 0 leaves the values as they are.
    """

    entries: Mapping[str, Entry]
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

        Counts are rounded to whole numbers. Raises CorruptFile: importance-empty, importance-shape, importance-value
        (NaN, infinity, a negative sum).

        >>> import numpy as np
        >>> found = Importance.from_mapping({"output.weight": (np.full((1, 4), 6, "f4"), np.array([3], "f4"))})
        >>> found.weights("output.weight")
        array([[2., 2., 2., 2.]], dtype=float32)
        """
        if not entries:
            raise CorruptFile("an importance matrix without entries", code="importance-empty", path=path)
        checked = {name: _entry(name, sums, counts, path) for name, (sums, counts) in entries.items()}
        return cls(checked, tuple(datasets), int(chunk_count), int(chunk_size), legacy, path)

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

        entry = self.entries.get(name)
        if entry is None:
            raise UsageError(
                "no importance weights for this tensor", code="importance-missing", path=self.path, place=name
            )
        counted = entry.counts > 0
        divisor = np.where(counted, entry.counts, 1)[:, None]
        found: NDArray[np.float32] = np.divide(entry.in_sum2, divisor, dtype=np.float32)
        if not self.legacy:
            found[~counted] = 1
        if shape is None:
            return found
        if not self.fits(name, shape):
            raise UsageError(
                "the importance matrix is of another model: its size does not match the tensor's",
                code="importance-shape",
                path=self.path,
                place=name,
                found=found.size,
                allowed=f"{shape[-1]} x {_n_mat(shape)}",
            )
        return found.reshape(-1, shape[-1])

    def fits(self, name: str, shape: Sequence[int]) -> bool:
        """True where the weights are as many as a tensor of this shape needs: columns x experts."""
        return self.entries[name].in_sum2.size == shape[-1] * _n_mat(shape)

    def usable(self, shapes: Mapping[str, Sequence[int]]) -> frozenset[str]:
        """The tensors (name -> shape, row-major) that have weights of their size.

        A token embedding of another size goes without, as in llama.cpp; for others UsageError (importance-shape).
        """
        found = set()
        for name in self.entries.keys() & shapes.keys():
            if self.fits(name, shapes[name]):
                found.add(name)
            elif name not in _UNSIZED:
                self.weights(name, shapes[name])
        return frozenset(found)

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Importance:
        """Only entries whose name contains one of `include` (where given) and none of `exclude`."""

        def wanted(name: str) -> bool:
            return (not include or any(part in name for part in include)) and not any(part in name for part in exclude)

        return replace(self, entries={name: entry for name, entry in self.entries.items() if wanted(name)})

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

    def to_gguf(self) -> tuple[list[tuple[str, str, Any]], dict[str, NDArray[np.float32]]]:
        """(metadata as (key, type, value), tensors by name), for the GGUF form, in llama-imatrix's order."""
        if self.legacy:
            return merge([self]).to_gguf()
        metadata: list[tuple[str, str, Any]] = [
            ("general.type", "STRING", "imatrix"),
            ("imatrix.datasets", "ARRAY:STRING", list(self.datasets)),
            ("imatrix.chunk_count", "UINT32", self.chunk_count),
            ("imatrix.chunk_size", "UINT32", self.chunk_size),
        ]
        tensors: dict[str, NDArray[np.float32]] = {}
        for name in sorted(self.entries, key=str.encode):
            tensors[name + _SUMS] = self.entries[name].in_sum2
            tensors[name + _COUNTS] = self.entries[name].counts[:, None]
        return metadata, tensors

    def to_dat(self) -> dict[str, tuple[NDArray[np.float32], int]]:
        """name -> (mean of squares * calls, calls) for formats.imatrix_dat.write_dat, as llama-imatrix writes it.

        Experts that were never used become ones; entries in which none was are left out. Raises UsageError where the
        chunk size is not known.
        """
        import numpy as np

        if self.legacy:
            return {name: (entry.in_sum2.reshape(-1), int(entry.counts[0])) for name, entry in self.entries.items()}
        if self.chunk_size <= 0:
            raise UsageError(
                "the .dat form needs the chunk size", code="chunk-size", path=self.path, found=self.chunk_size
            )
        found: dict[str, tuple[NDArray[np.float32], int]] = {}
        for name in sorted(self.entries, key=str.encode):
            entry = self.entries[name]
            counted = entry.counts > 0
            if counted.any():
                calls = -(-int(entry.counts.max()) // self.chunk_size)
                values = self.weights(name) * np.float32(calls)
                found[name] = (values.reshape(-1), calls)
        return found


def from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: str | None = None) -> Importance:
    """From the metadata and the tensors (row-major) of a GGUF file of the type `imatrix`.

    Raises CorruptFile: importance-metadata, importance-pair (sums without counts), and those of `from_mapping`.
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
            if tensors[part].dtype.name != "float32":
                raise CorruptFile(
                    "sums and counts must be F32",
                    code="importance-type",
                    path=path,
                    place=part,
                    found=tensors[part].dtype,
                )
        pairs[name] = (tensors[name + _SUMS], tensors[name + _COUNTS])
    return Importance.from_mapping(pairs, datasets=datasets, chunk_count=chunk_count, chunk_size=chunk_size, path=path)


def from_dat(
    entries: Mapping[str, tuple[NDArray[Any], int]],
    chunk_count: int | None = None,
    dataset: str | None = None,
    path: str | None = None,
) -> Importance:
    """From what formats.imatrix_dat.read_dat found: its entries, chunk_count and dataset.

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
    says. Raises UsageError (importance-shape: sizes differ; no-entries).
    """
    import numpy as np

    if not parts:
        raise UsageError("nothing to merge", code="no-entries")
    known = [part.chunk_size for part in parts if part.chunk_size > 0]
    found: dict[str, Entry] = {}
    for part in parts:
        factor = np.float32(chunk_size if part.legacy else 1)
        for name, entry in part.entries.items():
            scaled = Entry(entry.in_sum2 * factor, entry.counts * factor)
            found[name] = _added(found[name], scaled, name) if name in found else scaled
    size = known[0] if known else chunk_size
    most = max(float(entry.counts.max()) for entry in found.values())
    return Importance(found, tuple(name for part in parts for name in part.datasets), int(most) // size, size)


def _added(one: Entry, other: Entry, name: str) -> Entry:
    import numpy as np

    n_mat = max(len(one.counts), len(other.counts))
    if one.in_sum2.size != other.in_sum2.size or {len(one.counts), len(other.counts)} - {1, n_mat}:
        raise UsageError(
            "importance matrices of different models",
            code="importance-shape",
            place=name,
            found=other.in_sum2.shape,
            allowed=one.in_sum2.shape,
        )
    sums = one.in_sum2.reshape(n_mat, -1) + other.in_sum2.reshape(n_mat, -1)
    return Entry(sums, np.broadcast_to(one.counts, n_mat) + np.broadcast_to(other.counts, n_mat))


def _entry(name: str, sums: Any, counts: Any, path: str | None) -> Entry:
    import numpy as np

    sums = np.ascontiguousarray(sums, np.float32)
    counts = np.ascontiguousarray(counts, np.float32).reshape(-1)
    if sums.size == 0 or counts.size == 0 or sums.size % counts.size:
        raise CorruptFile(
            "sums do not divide into one row for each count",
            code="importance-shape",
            path=path,
            place=name,
            found=f"{sums.shape} sums, {counts.size} counts",
        )
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
