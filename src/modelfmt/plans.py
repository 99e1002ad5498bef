"""The plan of a conversion: every file, header, offset, type and loss, known before a weight is read.

A plan is data. It serialises, hashes, and can be run in parts on several machines; `modelfmt.executor` carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import msgspec

from modelfmt import grids, tiling
from modelfmt.errors import CorruptFile
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.layout import Checksum, Placed
from modelfmt.ir.ops import Expression, geometry, read_bytes, row_bytes, source_label
from modelfmt.report import Loss, Note

__all__ = ["Job", "Output", "Plan", "Sink", "SourceFile", "Stream"]

_DENSE = ("F16", "BF16", "F32")


class SourceFile(msgspec.Struct, frozen=True):
    """A file that the plan reads, and what tells that it has not changed since."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class Sink(msgspec.Struct, frozen=True):
    """Where rows of a stream go: into `output` (index) from `offset` on, in `encoding`.

    via: a dense encoding that values pass through first, where the reference's two steps do so. importance: they are
    quantized with the importance weights of this name. reason: why this encoding. rounding: how values become blocks,
    "ggml" or "best". moved: codes are moved, not values: the verdict and, where it is not exact, its bound.
    """

    output: int
    name: str
    encoding: str
    offset: int
    via: str | None = None
    importance: str | None = None
    reason: str = ""
    rounding: str = "ggml"
    moved: str = ""
    bound: float | None = None


class Stream(msgspec.Struct, frozen=True):
    """One source expression, read once, and every tensor that is made from it."""

    expr: Expression
    sinks: tuple[Sink, ...]


class Output(msgspec.Struct, frozen=True):
    """One file to be written: `header` at its start, tensors and `patches` at their offsets, zeros elsewhere."""

    path: str
    size: int
    header: bytes
    tensors: tuple[Placed, ...]
    patches: tuple[tuple[int, bytes], ...] = ()
    checksums: tuple[Checksum, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """Rows start..stop of a stream."""

    number: int
    stream: int
    start: int
    stop: int


class Plan(msgspec.Struct, frozen=True):
    """A conversion, laid out. recipe: what was asked for, for people and for the hash. stats: measure the error of each
    tensor."""

    recipe: dict[str, Any]
    sources: tuple[SourceFile, ...]
    outputs: tuple[Output, ...]
    streams: tuple[Stream, ...]
    losses: tuple[Loss, ...] = ()
    notes: tuple[Note, ...] = ()
    importance: str | None = None
    stats: bool = False
    tile_elements: int = tiling.ELEMENTS
    folders: tuple[str, ...] = ()
    schema: str = "modelfmt.plan/1"

    @property
    def hash(self) -> str:
        """SHA-256 of the plan, of how its streams are cut into jobs, and of the version, hexadecimal: equal plans write
        equal bytes, and a job's number means the same rows and the same bytes wherever the hash is the same."""
        from modelfmt import __version__

        steps = [self._tile(stream)[0] for stream in self.streams]
        return hashlib.sha256(msgspec.msgpack.encode((self, steps, __version__))).hexdigest()

    @property
    def bytes_read(self) -> int:
        """Bytes of tensor data that will be read."""
        return sum(read_bytes(s.expr, geometry(s.expr.shape, s.expr.stored)[0]) for s in self.streams)

    @property
    def bytes_written(self) -> int:
        """Bytes of the finished files."""
        return sum(output.size for output in self.outputs)

    @property
    def peak_memory(self) -> int:
        """Bytes that the largest job holds: its source rows, their float32 values and what it writes."""
        return max((self.job_bytes(s, *self._tile(s)) for s in self.streams), default=0)

    def job_bytes(self, stream: Stream, n_rows: int, n_cols: int) -> int:
        """Bytes that a job of n_rows rows of this stream holds at once."""
        written = sum(sink_row_bytes(sink, n_cols) for sink in stream.sinks)
        return tiling.held(stream.expr, self.moved(stream), n_rows, written)

    def moved(self, stream: Stream) -> Expression | None:
        """What is written of a stream, as an expression: where its only sink takes codes as they are, or their values
        in a dense type."""
        (sink, *more), expr = stream.sinks, stream.expr
        if self.stats or more or not expr.stored.name.startswith("GRID:"):
            return None
        as_it_is = sink.encoding in grids.BLOCKS if sink.moved else sink.encoding in _DENSE and not sink.via
        return grids.blocks_of(expr, sink.encoding) if as_it_is else None

    def moved_bytes(self, job: Job) -> tuple[int, int]:
        """(bytes that a job reads, bytes that it writes)."""
        stream = self.streams[job.stream]
        n_cols, n_rows = geometry(stream.expr.shape, stream.expr.stored)[1], job.stop - job.start
        return read_bytes(stream.expr, n_rows), n_rows * sum(sink_row_bytes(sink, n_cols) for sink in stream.sinks)

    def jobs(self) -> Iterator[Job]:
        """Every job, in the order of the sources; numbers are stable for equal plans."""
        number = 0
        for index, stream in enumerate(self.streams):
            n_rows = geometry(stream.expr.shape, stream.expr.stored)[0]
            step = self._tile(stream)[0]
            for start in range(0, n_rows, step):
                yield Job(number, index, start, min(start + step, n_rows))
                number += 1

    def part(self, index: int, count: int) -> Iterator[Job]:
        """The jobs of part index (0 .. count - 1) of count: neighbouring jobs, about equal bytes each."""
        jobs = list(self.jobs())
        weights = [(job.stop - job.start) * row_bytes(self.streams[job.stream].expr) for job in jobs]
        total, seen = sum(weights), 0
        for job, weight in zip(jobs, weights, strict=True):
            if min(seen * count // max(total, 1), count - 1) == index:
                yield job
            seen += weight

    def table(self) -> list[dict[str, Any]]:
        """One row for each tensor of each output: name, shape, source and destination encoding, size, reason."""
        sources = {(sink.output, sink.name): (stream, sink) for stream in self.streams for sink in stream.sinks}
        rows = []
        for index, output in enumerate(self.outputs):
            for tensor in output.tensors:
                stream, sink = sources[index, tensor.name]
                row: dict[str, Any] = {
                    "output": output.path,
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "from": source_label(stream.expr),
                }
                row |= {"to": tensor.encoding, "size": tensor.size, "reason": sink.reason}
                if sink.moved:
                    row |= {"verdict": sink.moved, "bound": sink.bound}
                rows.append(row)
        return rows

    def mixture(self) -> list[dict[str, Any]]:
        """For each output: its path, bits per weight of all tensors and of the quantized ones (None without), and
        `types`: a row for each type and reason with the number of tensors, weights and bytes.

        Reasons are those of `table`, without what follows a semicolon. Largest share first.
        """
        reasons = {(sink.output, sink.name): sink.reason for stream in self.streams for sink in stream.sinks}
        found = []
        for index, output in enumerate(self.outputs):
            groups: dict[tuple[str, str], list[Placed]] = {}
            for tensor in output.tensors:
                key = (tensor.encoding, reasons[index, tensor.name].partition(";")[0])
                groups.setdefault(key, []).append(tensor)
            rows: list[dict[str, Any]] = [
                {
                    "type": kind,
                    "reason": reason,
                    "tensors": len(tensors),
                    "weights": sum(prod(tensor.shape) for tensor in tensors),
                    "size": sum(tensor.size for tensor in tensors),
                }
                for (kind, reason), tensors in groups.items()
            ]
            rows.sort(key=lambda row: (-row["size"], row["type"], row["reason"]))
            quantized = [tensor for tensor in output.tensors if not ENCODINGS[tensor.encoding].dense]
            bits = {"bits_per_weight": _bits(output.tensors), "quantized_bits_per_weight": _bits(quantized)}
            found.append({"path": output.path, **bits, "types": rows})
        return found

    def to_bytes(self) -> bytes:
        """The plan as MessagePack, for `from_bytes`."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, path: str | None = None) -> Plan:
        """A plan as `to_bytes` wrote it. Raises CorruptFile."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise CorruptFile(
                "not a plan that this version can run", code="bad-plan", path=path, found=str(error)
            ) from None

    def _tile(self, stream: Stream) -> tuple[int, int]:
        n_cols = geometry(stream.expr.shape, stream.expr.stored)[1]
        return tiling.rows(stream.expr, self.moved(stream), self.tile_elements, measured=self.stats), n_cols


def _bits(tensors: Sequence[Placed]) -> float | None:
    n_weights = sum(prod(tensor.shape) for tensor in tensors)
    return sum(tensor.size for tensor in tensors) * 8 / n_weights if n_weights else None


def sink_row_bytes(sink: Sink, n_cols: int) -> int:
    """Bytes of one written row."""
    stored = ENCODINGS[sink.encoding]
    return -(-n_cols // stored.block_elements) * stored.block_bytes
