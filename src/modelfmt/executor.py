"""Carries a plan out: row tiles from source bytes to destination bytes, in any order, on several threads, resumable.

Each worker takes a job, reads its rows, converts them for every sink and writes them at their offsets; kernels, reads
and writes release the interpreter lock, so that they overlap. A byte budget bounds what is in flight.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from modelfmt import grids, sources
from modelfmt.errors import BadValue, CorruptFile, OutputError, UsageError
from modelfmt.ir.model import Model
from modelfmt.ir.op import spans
from modelfmt.ir.ops import Concat, Expression, Leaf, Reshape, Stack, geometry, row_bytes
from modelfmt.plans import Job, Plan, Sink, Stream
from modelfmt.plans import Output as Planned
from modelfmt.report import Done, Event, OutputReport, PlanReady, Progress, Report, TensorDone, TensorReport
from modelfmt.storage.files import Files, Fingerprint
from modelfmt.storage.outputs import Journal, OutputFile, check_destination, make_folder, remove_stale
from modelfmt.tiles import Evaluator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelfmt.quant.imatrix import Importance

__all__ = ["DEFAULT_MEMORY", "finalize", "run"]

DEFAULT_MEMORY = 1 << 30
SYNC_SECONDS = 20.0
KEPT_WEIGHTS = 8
"""Tensors whose importance weights stay computed while their tiles pass."""


def run(
    plan: Plan,
    *,
    part: tuple[int, int] | None = None,
    source: Model | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Carry a plan out and put its outputs in place; with part=(i, n), only that part's jobs, and `finalize` commits.

    overwrite: replace outputs that exist. source: the open model, needed only where the plan was made from arrays in
    memory. threads: kernels at work at once (default: the processors this process may use). memory: bytes in flight (1
    GiB). A run that was killed goes on where it was when the same plan is run again. Raises ModelfmtError; on an error,
    nothing is left behind; on KeyboardInterrupt, what is done is kept for the next run.
    """
    if part is not None and not (0 <= part[0] < part[1]):
        raise UsageError("no such part", code="part", found=part, allowed="index below count, counted from 0")
    started = time.monotonic()
    for output in plan.outputs:
        check_destination(output.path, overwrite=overwrite)
    session = _Session(plan, part, source, on_event or _ignore)
    session.work(threads or available_threads(), memory or DEFAULT_MEMORY)
    return session.finish(started)


def finalize(plan: Plan, *, overwrite: bool = False, on_event: Callable[[Event], None] | None = None) -> Report:
    """Commit a plan whose parts have all been run: check that every job is done, write headers, rename.

    overwrite: replace outputs that exist. Raises OutputError naming how many jobs are missing, DestinationExists.
    """
    started = time.monotonic()
    for planned in plan.outputs:
        check_destination(planned.path, overwrite=overwrite)
    plan_hash = plan.hash
    journals = _part_journals(plan, plan_hash[:12])
    finished: set[int] = set().union(*(journal.finished() for journal in journals))
    wanted = sum(1 for _ in plan.jobs())
    if len(finished) < wanted:
        raise OutputError(
            "some parts of the plan have not been run",
            code="parts-missing",
            found=f"{len(finished)} jobs",
            allowed=f"{wanted} jobs",
            hint="run the missing parts, then finalize again",
        )
    outputs = [OutputFile(output.path, output.size, plan_hash[:12]) for output in plan.outputs]
    for output in outputs:
        output.open()
    _commit(plan, outputs)
    for journal in journals:
        journal.close(remove=True)
    if on_event:
        on_event(Done(tuple(output.path for output in plan.outputs), time.monotonic() - started))
    return _report(plan, plan_hash, started, {}, (0, 0), wanted, wanted)


def _pool(plan: Plan) -> Files:
    """Files to read from. Sources that are parts of a compressed file are there once that file is open as a model."""
    path = plan.recipe.get("source")
    inside = any(row.path.startswith((f"{path}#", f"{path}!/")) for row in plan.sources)
    files: Files = sources.open(path).files if inside and isinstance(path, str) else Files()
    return files


def available_threads() -> int:
    """Processors that this process may use, after affinity and the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


def _ignore(event: Event) -> None:
    """Where nobody listens."""


_Errors = dict[tuple[int, str], list[tuple[int, float, float, float]]]


class _Session:
    """One run of a plan: its files, journal, counters."""

    def __init__(
        self, plan: Plan, part: tuple[int, int] | None, source: Model | None, on_event: Callable[[Event], None]
    ) -> None:
        self.plan = plan
        self.part = part
        self.on_event = on_event
        self.files = _pool(plan) if source is None else source.files
        self.hash = plan.hash
        self.token = self.hash[:12]
        self.outputs = [OutputFile(output.path, output.size, self.token) for output in plan.outputs]
        name = "all" if part is None else f"{part[0]}-of-{part[1]}"
        self.journal = Journal.beside(plan.outputs[0].path, self.token, name)
        importance = _load_importance(plan, self.files)
        self.weights = lru_cache(KEPT_WEIGHTS)(importance.weights if importance else _no_weights)
        self.moved = lru_cache(None)(lambda stream: plan.moved(plan.streams[stream]))
        self.lock = threading.Lock()
        self.read = self.written = self.done = self.resumed = 0
        self.errors: _Errors = {}
        self.made_folders: list[Path] = []

    def work(self, threads: int, memory: int) -> None:
        """Open everything, do the jobs that are not done yet; on an error, leave nothing behind."""
        jobs = list(self.plan.jobs() if self.part is None else self.plan.part(*self.part))
        _check_sources(self.plan, self.files)
        for output in self.outputs:
            self.made_folders += make_folder(output.path.parent)
        finished = self.journal.open()
        try:
            for planned in self.plan.outputs:
                remove_stale(planned.path, self.token)
            kept = [output.open() for output in self.outputs]
            if not all(kept) and self.part is None:
                finished = set()
            self.journal.begin()
            self.total = len(jobs)
            self.resumed = self.done = sum(job.number in finished for job in jobs)
            self.left = [0] * len(self.plan.streams)
            for job in jobs:
                self.left[job.stream] += 1
            pending = [job for job in jobs if job.number not in finished]
            moved = [self.plan.moved_bytes(job) for job in pending]
            self.on_event(PlanReady(sum(read for read, _ in moved), sum(wrote for _, wrote in moved), len(jobs)))
            _Pool(self, pending, threads, memory).run()
        except KeyboardInterrupt:
            self._release()
            raise
        except BaseException:
            self._abandon()
            raise

    def finish(self, started: float) -> Report:
        """Commit (a whole run) or make durable (a part), and report."""
        try:
            if self.part is None:
                _commit(self.plan, self.outputs)
            else:
                position = self.journal.position()
                for output in self.outputs:
                    output.sync()
                self.journal.synced(position)
        except BaseException:
            self._abandon()
            raise
        self.journal.close(remove=self.part is None)
        for output in self.outputs:
            output.close()
        self.files.close()
        self.on_event(Done(tuple(output.path for output in self.plan.outputs), time.monotonic() - started))
        moved = self.read, self.written
        return _report(self.plan, self.hash, started, self.errors, moved, self.total, self.resumed)

    def do(self, job: Job, evaluator: Evaluator, kernel: threading.Semaphore) -> None:
        """One job: read its rows, convert and write them for every sink."""
        stream = self.plan.streams[job.stream]
        name = stream.sinks[0].name
        wrote = self._copy(job, stream)
        if wrote is None:
            moved = self.moved(job.stream)
            with BadValue.of(name):
                wrote = self._make(job, evaluator, kernel) if moved is None else self._move(job, moved, evaluator)
        read, _ = self.plan.moved_bytes(job)
        self.journal.done(job.number)
        with self.lock:
            self.done += 1
            self.read += read
            self.written += wrote
            self.left[job.stream] -= 1
            self.on_event(Progress(self.read, self.written, self.done, self.total, name))
            if self.left[job.stream] == 0:
                self.on_event(TensorDone(name, tuple(sink.encoding for sink in stream.sinks)))

    def _make(self, job: Job, evaluator: Evaluator, kernel: threading.Semaphore) -> int:
        """Read a job's rows, encode and write them; bytes that were written."""
        stream, wrote = self.plan.streams[job.stream], 0
        rows = evaluator.rows(stream.expr, job.start, job.stop)
        n_cols = geometry(stream.expr.shape, stream.expr.stored)[1]
        for sink in stream.sinks:
            with kernel:
                encoded = self._encode(stream, sink, job, rows, n_cols)
            data = encoded.reshape(-1).data
            size = len(data) // (job.stop - job.start)
            self.outputs[sink.output].write(sink.offset + job.start * size, data)
            wrote += len(data)
        return wrote

    def _move(self, job: Job, moved: Expression, evaluator: Evaluator) -> int:
        """Write a job's rows as `moved` makes them, slab by slab; bytes that were written."""
        (sink,) = self.plan.streams[job.stream].sinks
        wrote, begin = 0, sink.offset + job.start * row_bytes(moved)
        for slab in grids.slabs(moved, job.start, job.stop, evaluator):
            data = slab.reshape(-1).data
            self.outputs[sink.output].write(begin + wrote, data)
            wrote += len(data)
        return wrote

    def _copy(self, job: Job, stream: Stream) -> int | None:
        """Copy bytes that stay as they are inside the kernel; None where they have to be looked at."""
        if self.plan.stats or any(sink.encoding != stream.expr.stored.name or sink.via for sink in stream.sinks):
            return None
        size, wrote = row_bytes(stream.expr), 0
        extents = _extents(stream.expr, job.start, job.stop)
        if extents is None:
            return None
        for sink in stream.sinks:
            target = sink.offset + job.start * size
            for file, offset, count in extents:
                handle = self.files.handle(file)
                if handle is None or self.outputs[sink.output].copy(handle, offset, target, count) != count:
                    return None
                target += count
                wrote += count
        return wrote

    def _encode(self, stream: Stream, sink: Sink, job: Job, rows: NDArray[np.uint8], n_cols: int) -> NDArray[np.uint8]:
        from modelfmt.quant.encode import encode_rows, row_errors

        weights = None if sink.importance is None else self.weights(sink.importance, stream.expr.shape)
        per_matrix = stream.expr.shape[-2] if weights is not None and len(stream.expr.shape) > 2 else job.stop
        pieces = spans(job.start, job.stop, per_matrix) if weights is not None else [(0, job.start, job.stop)]
        encoded, at = [], 0
        for matrix, first, last in pieces:
            chosen = None if weights is None else weights[min(matrix, len(weights) - 1)]
            piece = rows[at : at + last - first]
            encoded.append(
                encode_rows(
                    piece,
                    stream.expr.stored.name,
                    sink.encoding,
                    n_cols,
                    via=sink.via,
                    importance=chosen,
                    rounding=sink.rounding,
                    tensor=sink.name,
                    first_row=job.start + at,
                    moved=bool(sink.moved),
                )
            )
            at += last - first
        if len(encoded) == 1:
            whole = encoded[0]
        else:
            import numpy as np

            whole = np.concatenate(encoded)
        if self.plan.stats:
            sums = row_errors(rows, stream.expr.stored.name, whole, sink.encoding, n_cols)
            if sums is not None:
                with self.lock:
                    self.errors.setdefault((sink.output, sink.name), []).append((job.start, *sums))
        return whole

    def _release(self) -> None:
        self.journal.close()
        for output in self.outputs:
            output.close()
        self.files.close()

    def _abandon(self) -> None:
        if self.part is not None:  # other parts go on writing the same files
            self._release()
            return
        for output in self.outputs:
            output.discard()
        self.journal.close(remove=True)
        for folder in self.made_folders:
            try:
                folder.rmdir()
            except OSError:
                break
        self.files.close()


class _Pool:
    """Worker threads over a list of jobs, with a budget of bytes and a limit on kernels at work."""

    def __init__(self, session: _Session, jobs: list[Job], threads: int, memory: int) -> None:
        self.session = session
        self.jobs = iter(jobs)
        self.kernel = threading.Semaphore(threads)
        # a thread that waits for its budget would still keep what its allocator holds on to
        affordable = memory // max(1, session.plan.peak_memory)
        self.workers = max(1, min(threads + 1, len(jobs), affordable)) if threads > 1 else 1
        self.memory = memory
        self.in_flight = 0
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.synced = time.monotonic()
        self.evaluator = Evaluator(session.files)

    def run(self) -> None:
        """Work until every job is done; the first failure is raised here."""
        threads = [
            threading.Thread(target=self._worker, name=f"modelfmt-{i}", daemon=True) for i in range(self.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:
            with self.changed:
                self.failure = self.failure or error
                self.changed.notify_all()
            for thread in threads:
                thread.join()
            raise
        if self.failure is not None:
            raise self.failure

    def _worker(self) -> None:
        try:
            while (taken := self._take()) is not None:
                job, size = taken
                try:
                    self.session.do(job, self.evaluator, self.kernel)
                finally:
                    with self.changed:
                        self.in_flight -= size
                        self.changed.notify_all()
                self._sync()
        except BaseException as error:  # handed to the thread that called run()
            with self.changed:
                self.failure = self.failure or error
                self.changed.notify_all()

    def _take(self) -> tuple[Job, int] | None:
        with self.changed:
            if self.failure is not None:
                return None
            job = next(self.jobs, None)
            if job is None:
                return None
            stream = self.session.plan.streams[job.stream]
            n_cols = geometry(stream.expr.shape, stream.expr.stored)[1]
            size = self.session.plan.job_bytes(stream, job.stop - job.start, n_cols)
            while self.in_flight and self.in_flight + size > self.memory and self.failure is None:
                self.changed.wait()
            self.in_flight += size
            return job, size

    def _sync(self) -> None:
        """Now and then, make what is done survive a power cut: sync the outputs, then say so in the journal."""
        with self.changed:
            if time.monotonic() - self.synced < SYNC_SECONDS or self.failure is not None:
                return
            self.synced = time.monotonic()
        position = self.session.journal.position()
        for output in self.session.outputs:
            output.sync()
        self.session.journal.synced(position)


def _extents(expr: Expression, start: int, stop: int) -> list[tuple[str, int, int]] | None:
    """Byte ranges of files that hold rows start..stop as they are; None where they have to be made."""
    if isinstance(expr, Leaf):
        if expr.big:
            return None
        size = row_bytes(expr)
        return [(expr.file, expr.offset + start * size, (stop - start) * size)]
    if isinstance(expr, Stack | Concat) and len(expr.shape) > 1:
        found: list[tuple[str, int, int]] = []
        base = 0
        for part in expr.parts:
            n_rows = geometry(part.shape, part.stored)[0]
            first, last = max(start - base, 0), min(stop - base, n_rows)
            base += n_rows
            extents = _extents(part, first, last) if first < last else []
            if extents is None:
                return None
            found += extents
        return found
    if isinstance(expr, Reshape) and row_bytes(expr.input):
        begin, end, size = start * row_bytes(expr), stop * row_bytes(expr), row_bytes(expr.input)
        return None if begin % size or end % size else _extents(expr.input, begin // size, end // size)
    return None


def _check_sources(plan: Plan, files: Files) -> None:
    for source in plan.sources:
        found = files.fingerprint(source.path)
        if found != Fingerprint(source.size, source.mtime_ns, source.inode):
            raise CorruptFile(
                "a source file has changed since the plan was made",
                code="source-changed",
                path=source.path,
                hint="make the plan again",
            )


def _no_weights(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    raise UsageError("the plan has no importance matrix", code="importance-missing", place=name, found=shape)


def _load_importance(plan: Plan, files: Files) -> Importance | None:
    if plan.importance is None:
        return None
    from modelfmt.checkpoints.importance import read

    return read(plan.importance, files)


def _commit(plan: Plan, outputs: list[OutputFile]) -> None:
    """Headers, fsync, then every rename: tensors first, index and configuration behind them."""
    for output, planned in zip(outputs, plan.outputs, strict=True):
        _complete(output, planned)
        output.seal()
    order = sorted(range(len(outputs)), key=lambda i: (not plan.outputs[i].tensors, i))
    for index in order:
        outputs[index].publish()
        outputs[index].close()


def _complete(output: OutputFile, planned: Planned) -> None:
    """Header and patches, then the checksums of what is there, which may stand in either."""
    output.write(0, memoryview(planned.header))
    for offset, data in planned.patches:
        output.write(offset, memoryview(data))
    for checksum in planned.checksums:
        value = output.crc32(checksum.offset, checksum.size).to_bytes(4, "little")
        for place in checksum.places:
            output.write(place, memoryview(value))


def _part_journals(plan: Plan, token: str) -> list[Journal]:
    path = Path(plan.outputs[0].path)
    prefix = Journal.beside(plan.outputs[0].path, token, "").path.name.split("..")[0]
    if not path.parent.is_dir():
        return []
    return [
        Journal(found)
        for found in sorted(path.parent.iterdir())
        if found.name.startswith(prefix) and ".journal." in found.name
    ]


def _report(
    plan: Plan, plan_hash: str, started: float, errors: _Errors, moved: tuple[int, int], jobs: int, resumed: int
) -> Report:
    tensors = []
    sources = {(sink.output, sink.name): stream for stream in plan.streams for sink in stream.sinks}
    for index, output in enumerate(plan.outputs):
        for tensor in output.tensors:
            source = sources[index, tensor.name].expr.stored.name
            rmse, largest = _errors(errors.get((index, tensor.name), []))
            tensors.append(
                TensorReport(
                    output.path, tensor.name, tensor.shape, source, tensor.encoding, tensor.size, rmse, largest
                )
            )
    outputs = tuple(OutputReport(output.path, output.size) for output in plan.outputs)
    seconds = time.monotonic() - started
    return Report(outputs, tuple(tensors), plan.losses, plan.notes, seconds, *moved, jobs, resumed, plan_hash)


def _errors(sums: Iterable[tuple[int, float, float, float]]) -> tuple[float | None, float | None]:
    ordered = sorted(sums)
    if not ordered:
        return None, None
    difference, total = sum(row[1] for row in ordered), sum(row[2] for row in ordered)
    return ((difference / total) ** 0.5 if total else 0.0), max(row[3] for row in ordered)
