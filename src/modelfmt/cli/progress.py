"""Progress of a run: a line redrawn on a terminal, plain lines elsewhere, JSON lines for programs. Always on stderr."""

from __future__ import annotations

import os
import sys
import time

from modelfmt.cli.output import as_json, note, one_line, size_text
from modelfmt.report import Event, PlanReady, Progress

__all__ = ["MODES", "Meter"]

MODES = ("auto", "bar", "plain", "json", "none")
_EVERY = {"bar": 0.1, "plain": 5.0, "json": 1.0}
_BAR = 24


class Meter:
    """Called with the events of a run, from its threads one at a time. mode: one of MODES."""

    def __init__(self, mode: str) -> None:
        if mode == "auto":
            dumb = os.environ.get("TERM") == "dumb"
            mode = "bar" if sys.stderr.isatty() and not dumb else "plain"
        self.mode = mode
        self.resumed: int | None = None
        self.began = self.shown = time.monotonic()
        self.drawn = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, PlanReady):
            self.began = self.shown = time.monotonic()
        elif isinstance(event, Progress) and self.mode != "none":
            now = time.monotonic()
            if self.resumed is None:
                self.resumed = event.jobs_done - 1  # what an earlier run did says nothing about the speed of this one
            last = event.jobs_done == event.jobs
            if now - self.shown >= _EVERY[self.mode] or (last and self.mode != "plain"):
                self.shown = now
                self._show(event, now - self.began)

    def close(self) -> None:
        """End the line that was being redrawn."""
        if self.drawn:
            note("")
            self.drawn = False

    def _show(self, event: Progress, seconds: float) -> None:
        seconds = max(seconds, 1e-3)
        share = event.jobs_done / max(event.jobs, 1)
        done = event.jobs_done - (self.resumed or 0)
        left = seconds * (event.jobs - event.jobs_done) / max(done, 1)
        if self.mode == "json":
            facts = {
                "schema": "modelfmt.progress/1",
                "share": round(share, 4),
                "bytes_read": event.bytes_read,
                "bytes_written": event.bytes_written,
                "read_per_second": round(event.bytes_read / seconds),
                "written_per_second": round(event.bytes_written / seconds),
                "seconds_left": round(left, 1),
                "tensor": event.tensor,
            }
            note(as_json(facts))
            return
        read = f"{size_text(event.bytes_read)} in, {size_text(event.bytes_read / seconds)}/s"
        wrote = f"{size_text(event.bytes_written)} out, {size_text(event.bytes_written / seconds)}/s"
        text = f"{share:4.0%}  {read}  {wrote}  {_clock(left)} left  {one_line(event.tensor)}"
        if self.mode == "plain":
            note(text)
            return
        filled = round(share * _BAR)
        line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {text}"
        sys.stderr.write(f"\r{line[: _width() - 1]}\x1b[K")
        sys.stderr.flush()
        self.drawn = True


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 100
