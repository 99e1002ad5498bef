"""The command line: one file per command, imported when it is used, so that `modelfmt --help` loads nothing else."""

from __future__ import annotations

from importlib import import_module

import click

from modelfmt import __version__

__all__ = ["main"]

COMMANDS = {
    "convert": "Convert a model.",
    "plan": "Lay a conversion out and print it: tensors, types, sizes, losses, memory.",
    "run": "Carry out a saved plan, or one part of it.",
    "finalize": "Commit a plan whose parts have been run.",
    "inspect": "Show what is in a model file, from its headers.",
    "quantize": "Convert a model to other types in its own container.",
    "formats": "List the formats.",
    "types": "List the tensor types, or the file types.",
}
"""Every command with its summary; the function of that name is in the file of that name (`run` also holds
`finalize`)."""

_FILES = {"finalize": "run", "quantize": "convert"}

EPILOG = """\b
Exit codes:
  0  done                       6  destination exists, or no room, or writing failed
  1  the answer is no           7  a loss that was not allowed
  2  usage                     70  a bug in modelfmt
  3  source missing           130  interrupted; the same command goes on
  4  source corrupt
  5  unsupported
"""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"modelfmt.cli.{_FILES.get(name, name)}"), name)
        return command

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
    """The entry point of the console script."""
    from modelfmt.cli.output import guarded

    guarded(group)
