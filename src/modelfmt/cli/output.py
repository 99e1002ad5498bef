"""The one place that writes to the terminal: data to stdout, everything else to stderr, errors to exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from modelfmt.errors import ModelfmtError, printable

__all__ = ["as_json", "emit", "guarded", "json_option", "note", "size_text", "table"]

_JSON_WANTED = False


def guarded(command: Callable[..., Any]) -> None:
    """Run the command line and turn whatever happens into a message and an exit code."""
    try:
        code = command(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModelfmtError as error:
        _failed(error)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        note(f"error[bug]: {type(error).__name__}: {error}")
        note("this is a bug in modelfmt: please report it with the command; MODELFMT_DEBUG=1 shows where it happened")
        if os.environ.get("MODELFMT_DEBUG"):
            traceback.print_exc()
        sys.exit(70)


def _interrupted() -> None:
    note("interrupted; the same command goes on where it was")
    sys.exit(130)


def _failed(error: ModelfmtError) -> None:
    if _JSON_WANTED:
        emit(as_json({"schema": "modelfmt.error/1", "error": error.to_dict()}))
    text = str(error).removesuffix(f" [{error.code}]")
    note(f"error[{error.code}]: {text.replace(f' [{error.code}]', '')}")
    sys.exit(error.exit_code)


def _want_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    global _JSON_WANTED
    _JSON_WANTED = value
    return value


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json`."""
    return click.option("--json", "json", is_flag=True, callback=_want_json, help="Print one JSON document.")(function)


def emit(text: str) -> None:
    """A line of data."""
    click.echo(text)


def note(text: str) -> None:
    """A line for people."""
    click.echo(text, err=True)


def as_json(value: Any) -> str:
    """JSON of plain data, arrays and structs included."""
    import msgspec

    return msgspec.json.encode(value, enc_hook=str).decode()


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
    texts = [[printable(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    lines = ([list(header)] if header else []) + texts
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))] if lines else []
    out = []
    for row in lines:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)
