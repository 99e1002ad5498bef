"""`modelfmt verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelfmt.cli.output import as_json, emit, json_option, note, one_line, table
from modelfmt.errors import UsageError
from modelfmt.verifying import RUNTIMES
from modelfmt.verifying.measures import Distributions, States

if TYPE_CHECKING:
    from modelfmt.verifying import Verification

__all__ = ["verify"]

_SHOWN = 8


@click.command(
    epilog="\b\nExamples:\n  modelfmt verify qwen3-Q4_K_M.gguf --against ./Qwen3-0.6B\n"
    "  modelfmt verify onnx/ --against ./Qwen3-0.6B --text README.md --layers"
)
@click.argument("path")
@click.option("--against", required=True, metavar="SOURCE", help="What it was made from.")
@click.option("--text", metavar="FILE", help="A text whose first tokens both compute with (needs `tokenizers`).")
@click.option("--tokens", metavar="IDS", help="Token ids, separated by commas. Default: random ones.")
@click.option("--length", type=click.IntRange(min=2), default=32, help="How many tokens. Default: 32.")
@click.option("--seed", type=int, default=0, help="Of random tokens. Default: 0.")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    help="What runs PATH. Default: what its format is made for, if installed, else NumPy.",
)
@click.option("--source-runtime", type=click.Choice(RUNTIMES), default="auto", help="What runs SOURCE. Default: NumPy.")
@click.option("--weights/--no-weights", default=True, help="Compare weights by value.")
@click.option("--outputs/--no-outputs", default=True, help="Compare what both compute.")
@click.option("--layers", is_flag=True, help="Compare the states after each layer, too (in NumPy).")
@click.option("--max-kl", type=float, default=0.1, help="Largest mean KL divergence, in nats. Default: 0.1.")
@click.option("--min-cosine", type=float, default=0.99, help="Smallest cosine of two states. Default: 0.99.")
@click.option("--max-error", type=float, help="Largest relative error of a weight. Default: none.")
@json_option
def verify(path: str, against: str, json: bool, tokens: str | None, **given: Any) -> None:
    """Compare PATH with what it was made from: weights, and what both compute. Exit code 1 where a check fails."""
    import modelfmt

    found = modelfmt.verify(path, against, tokens=_ids(tokens), **given)
    if json:
        emit(as_json(found))
    else:
        _print(found)
    if not found.passed:
        raise click.exceptions.Exit(1)


def _ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise UsageError("these are no token ids", code="tokens", found=text, allowed="1,2,3") from None


def _print(found: Verification) -> None:
    if found.weights:
        equal = sum(row.max_error == 0 for row in found.weights)
        emit(f"weights: {len(found.weights)} compared, {equal} equal, {len(found.missing)} not in the result")
        worst = [row for row in found.weights[:_SHOWN] if row.max_error]
        cells = ((r.name, r.source, r.result, f"{r.max_error:.3g}", f"{r.rms_error:.3g}") for r in worst)
        if worst:
            emit(table(cells, ("tensor", "source", "result", "largest error", "relative RMS"), right=(3, 4)))
    if found.runtimes:
        emit(f"outputs: {len(found.tokens)} tokens, source in {found.runtimes[0]}, result in {found.runtimes[1]}")
    for row in found.outputs:
        emit(f"  {_line(row)}")
    if found.steps:
        emit(f"  one by one, {_line(found.steps)}")
    for state in found.layers:
        emit(f"  {_line(state)}")
    for remark in found.notes:
        note(f"note: {one_line(remark)}")
    for failure in found.failures:
        note(f"failed: {one_line(failure)}")
    emit("verified" if found.passed else "not verified")


def _line(row: Distributions | States) -> str:
    if isinstance(row, Distributions):
        return (
            f"{one_line(row.name)}: KL {row.kl_mean:.3g} (largest {row.kl_max:.3g}), same token first "
            f"{row.agreement:.1%}, log-probabilities within {row.max_difference:.3g}"
        )
    apart = f"within {row.max_difference:.3g} of {row.scale:.3g}"
    return f"{one_line(row.name)}: cosine {row.cosine_min:.6f} at least, {apart}"
