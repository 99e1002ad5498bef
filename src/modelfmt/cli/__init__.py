"""The command line: one file per command, imported when it is used, so that `modelfmt --help` loads nothing else."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from modelfmt import __version__
from modelfmt.cli.output import EXIT_CODES, guarded
from modelfmt.errors import UsageError

__all__ = ["main"]

COMMANDS = {
    "convert": "Convert a model.",
    "plan": "Lay a conversion out and print it: tensors, types, sizes, losses, memory.",
    "run": "Carry out a saved plan, or one part of it.",
    "finalize": "Commit a plan whose parts have been run.",
    "inspect": "Show what is in a model file, from its headers.",
    "scan": "Say what loading a file would import and call.",
    "quantize": "Convert a model to other types in its own container.",
    "transcode": "Move quantized weights to another scheme; --matrix: what can go where.",
    "verify": "Compare a converted model with its source: weights, and what both compute.",
    "imatrix": "Show, merge, convert and check importance matrices.",
    "formats": "List the formats.",
    "architectures": "List the architectures, and how each was checked.",
    "types": "List the tensor types, or the file types.",
}
"""Every command with its summary; the function of that name is in the file of that name (`run` also holds
`finalize`)."""

_FILES = {"finalize": "run", "quantize": "convert"}

EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"modelfmt.cli.{_FILES.get(name, name)}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in COMMANDS or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        close = get_close_matches(args[0], COMMANDS, n=1)
        raise UsageError(
            "no such command",
            code="unknown-command",
            found=args[0],
            allowed=", ".join(COMMANDS),
            hint=f"did you mean {close[0]}?" if close else "see modelfmt --help",
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="modelfmt")
def group() -> None:
    """Turn any machine-learning model format into any other."""


def main() -> None:
    """The entry point of the console script. _MODELFMT_COMPLETE asks for shell completion, as click defines it."""
    if "_MODELFMT_COMPLETE" in os.environ:
        group.main(prog_name="modelfmt")
    sys.exit(guarded(group, sys.argv[1:]))
