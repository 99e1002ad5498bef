"""What a conversion did: outputs, tensors, losses, notes, times. Plain data, JSON through `to_json()`."""

from __future__ import annotations

import msgspec

__all__ = [
    "Done",
    "Event",
    "Loss",
    "Note",
    "OutputReport",
    "PlanReady",
    "Progress",
    "Report",
    "TensorDone",
    "TensorReport",
]


class Loss(msgspec.Struct, frozen=True):
    """Something of the source that the destination does not hold exactly.

    kind: quantized, requantized, narrowed, dropped, saturated or approximated. subject: the tensor or key.
    """

    kind: str
    subject: str
    detail: str


class Note(msgspec.Struct, frozen=True):
    """Something worth knowing that loses nothing."""

    subject: str
    detail: str


class OutputReport(msgspec.Struct, frozen=True):
    """One file that was written."""

    path: str
    size: int


class TensorReport(msgspec.Struct, frozen=True):
    """One tensor of one output; the errors are there where statistics were asked for, of what has values of its own.

    relative_rmse: root of the summed squared error over the summed squares of the source. max_error: largest absolute
    one.
    """

    output: str
    name: str
    shape: tuple[int, ...]
    source_encoding: str
    encoding: str
    size: int
    relative_rmse: float | None = None
    max_error: float | None = None


class Report(msgspec.Struct, frozen=True):
    """The result of a conversion. seconds: wall clock; bytes_read and bytes_written: of tensor data in this run."""

    outputs: tuple[OutputReport, ...]
    tensors: tuple[TensorReport, ...]
    losses: tuple[Loss, ...]
    notes: tuple[Note, ...]
    seconds: float
    bytes_read: int
    bytes_written: int
    jobs: int
    resumed_jobs: int
    plan_hash: str
    schema: str = "modelfmt.report/1"

    def to_json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.encode(self)


class PlanReady(msgspec.Struct, frozen=True, tag=True):
    """The plan is checked and streaming begins. bytes_read, bytes_written: of this run, without what was done
    before."""

    bytes_read: int
    bytes_written: int
    jobs: int


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Totals so far, after each job. tensor: the one just worked on."""

    bytes_read: int
    bytes_written: int
    jobs_done: int
    jobs: int
    tensor: str


class TensorDone(msgspec.Struct, frozen=True, tag=True):
    """The last row of a tensor has been written."""

    name: str
    encodings: tuple[str, ...]


class Done(msgspec.Struct, frozen=True, tag=True):
    """Every output is in place."""

    outputs: tuple[str, ...]
    seconds: float


Event = PlanReady | Progress | TensorDone | Done
