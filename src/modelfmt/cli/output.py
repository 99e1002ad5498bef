"""The one place that writes to the terminal: data to stdout, everything else to stderr, errors to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from modelfmt.errors import ModelfmtError, OutputError, UsageError, printable

__all__ = [
    "EXIT_CODES",
    "as_json",
    "emit",
    "emit_path",
    "guarded",
    "json_option",
    "note",
    "one_line",
    "size_text",
    "table",
]

EXIT_CODES = {
    0: "done",
    1: "a check found something",
    2: "usage: an option, a type name, an array that does not fit",
    3: "the source is missing or cannot be read",
    4: "the source is corrupt, leads out of its folder, or exceeds a limit",
    5: "unsupported: an architecture, a format, a type",
    6: "the destination exists, there is no room, or writing failed",
    7: "a loss that was not allowed",
    8: "scan: something would run that is not known to be harmless",
    9: "scan: code of a package would be imported, or a part could not be looked at",
    70: "a bug in modelfmt; MODELFMT_DEBUG=1 shows where",
    130: "interrupted; the same command goes on where it was",
    141: "whoever read stdout has gone",
}
_RESUMABLE = ("convert", "quantize", "run")
_WIDTH = 100
_LISTED = 10
_WRAPPED = ("allowed", "missing", "hint")


def guarded(group: click.Group, arguments: Sequence[str]) -> int:
    """Run the command line; whatever happens becomes a message and the exit code that is returned."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # names of files are bytes, and a narrow terminal encoding is no reason to fail
        unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
    try:
        code = _outcome(group, list(arguments) or ["--help"])
        _write(sys.stdout.flush)
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except OutputError as error:
        _drop_stdout()
        note(_error_text(error))
        return error.exit_code
    return code


def _write(action: Callable[[], None]) -> None:
    try:
        action()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError("writing to stdout failed", code="stdout", found=error.strerror) from error


def _drop_stdout() -> None:
    """What is still buffered goes nowhere, so that the interpreter does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _outcome(group: click.Group, arguments: list[str]) -> int:
    failure: ModelfmtError
    try:
        with group.make_context("modelfmt", arguments) as ctx:
            group.invoke(ctx)
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except ModelfmtError as error:
        failure = error
    except click.ClickException as error:
        failure = _usage(error)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.exceptions.Abort):
        note("interrupted; the same command goes on where it was" if arguments[0] in _RESUMABLE else "interrupted")
        return 130
    except Exception as error:
        failure = _bug(error)
    if "--json" in arguments and failure.code != "stdout":
        facts = failure.to_dict() | {"exit_code": failure.exit_code}
        emit(as_json({"schema": "modelfmt.error/1", "error": facts}))
    note(_error_text(failure))
    return failure.exit_code


def _usage(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context is not None else None
    return UsageError(error.format_message().rstrip("."), hint=hint)


def _bug(error: Exception) -> ModelfmtError:
    if os.environ.get("MODELFMT_DEBUG"):
        import traceback

        traceback.print_exc()
    return ModelfmtError(
        f"this is a bug in modelfmt: {type(error).__name__}: {error}",
        code="bug",
        hint="please report it with the command; MODELFMT_DEBUG=1 shows where it happened",
    )


def _error_text(error: ModelfmtError) -> str:
    """The message, and a line for each part that is known."""
    from textwrap import TextWrapper

    wrapper = TextWrapper(_WIDTH, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)
    missing = error.context.get("missing")
    names = [str(name) for name in missing] if isinstance(missing, list | tuple | set | frozenset) else []
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    parts = {
        "file": error.path,
        "place": error.place,
        "found": error.found,
        "allowed": error.allowed,
        "missing": ", ".join(names[:_LISTED] + more) or None,
        "hint": error.hint,
    }
    lines = [f"error[{error.code}]: {one_line(error.message)}"]
    for word, value in parts.items():
        if value is not None:
            line = f"  {word:8}{one_line(value)}"
            lines.append(wrapper.fill(line) if word in _WRAPPED else line)
    return "\n".join(lines)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json`."""
    text = "Print one JSON document with a schema field; an error as well."
    return click.option("--json", "json", is_flag=True, help=text)(function)


def emit(text: str) -> None:
    """Lines of data; control characters are escaped."""
    _write(lambda: click.echo(printable(text)))


def emit_path(path: str) -> None:
    """A path as data: exact for a program that reads it, escaped on a terminal."""
    _write(lambda: click.echo(one_line(path) if sys.stdout.isatty() else path))


def note(text: str) -> None:
    """Lines for people; control characters are escaped."""
    click.echo(printable(text), err=True)


def one_line(value: object) -> str:
    """Text from anywhere as one line without control characters.

    >>> one_line("a\\nb\\x1b")
    'a\\\\nb\\\\x1b'
    """
    return printable(str(value)).replace("\n", "\\n")


def as_json(value: Any) -> str:
    """JSON of plain data, arrays and structs included, in ASCII; numbers that are not finite become null."""
    import json

    import msgspec

    return json.dumps(_finite(msgspec.to_builtins(value, enc_hook=str)), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0.0 else value


def size_text(size: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> size_text(1234567), size_text(999)
    ('1.23 MB', '999 B')
    """
    for unit, limit in (("B", 1e3), ("kB", 1e6), ("MB", 1e9), ("GB", 1e12)):
        if size < limit:
            return f"{size:.0f} B" if unit == "B" else f"{size / (limit / 1e3):.2f} {unit}"
    return f"{size / 1e12:.2f} TB"


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = (), right: Sequence[int] = ()) -> str:
    """Aligned columns; `right` lists those that are flush right.

    >>> print(table([("a", 1), ("bb", 22)], right=[1]))
    a    1
    bb  22
    """
    texts = [[one_line(cell) for cell in row] for row in rows]
    lines = ([list(header)] if header else []) + texts
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))] if lines else []
    out = []
    for row in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)
