"""`modelfmt inspect`."""

from __future__ import annotations

import click

from modelfmt.cli.output import as_json, emit, json_option, note, one_line, size_text, table

__all__ = ["inspect"]

_LONGEST = 100
_LONGEST_PARAMS = 240
_SHOWN_ESTIMATORS = 20


@click.command(
    epilog="\b\nExamples:\n  modelfmt inspect model.gguf\n  modelfmt inspect model.gguf --json | jq '.tensors[].name'"
)
@click.argument("source")
@click.option("--no-tensors", is_flag=True, help="Leave the list of tensors out.")
@json_option
def inspect(source: str, no_tensors: bool, json: bool) -> None:
    """Show what is in SOURCE, from its headers: format, architecture, metadata, estimators, tensors."""
    import modelfmt

    info = modelfmt.inspect(source, tensors=not no_tensors)
    if json:
        emit(as_json(info))
        return
    architecture = one_line(info.architecture or "no architecture")
    kinds = ", ".join(f"{count} {name}" for name, count in info.encodings.items())
    size = f"{info.n_params:,} parameters, {size_text(info.size)} in tensors"
    emit(f"{one_line(info.path)}: {info.format}, {architecture}, {size}" + (f" ({kinds})" if kinds else ""))
    if info.metadata:
        emit(table((key, _short(value)) for key, value in info.metadata.items()))
    for row in info.estimators[:_SHOWN_ESTIMATORS]:
        params = ", ".join(f"{key}={value}" for key, value in row.params.items())
        version = f" [{row.version}]" if row.version else ""
        emit(one_line(f"{row.name or '(whole)'}: {row.type}({_clipped(params)}){version}"))
    if len(info.estimators) > _SHOWN_ESTIMATORS:
        emit(f"and {len(info.estimators) - _SHOWN_ESTIMATORS} more estimators, see --json")
    if info.tensors:
        cells = ((t.name, "x".join(map(str, t.shape)), t.encoding, size_text(t.size)) for t in info.tensors)
        emit(table(cells, ("tensor", "shape", "type", "size"), right=[3]))
    for remark in info.notes:
        note(f"note: {one_line(remark)}")


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_PARAMS else f"{text[:_LONGEST_PARAMS]}..."


def _short(value: object) -> str:
    text = value if isinstance(value, str) else as_json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"
