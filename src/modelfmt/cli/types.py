"""`modelfmt types`."""

from __future__ import annotations

import click

from modelfmt.cli.output import as_json, emit, json_option, table

__all__ = ["types"]


@click.command(epilog="\b\nExamples:\n  modelfmt types\n  modelfmt types --files --json | jq -r '.types[].name'")
@click.option("--files", is_flag=True, help="File types (mixtures, for --quant) instead of tensor types.")
@json_option
def types(files: bool, json: bool) -> None:
    """List the tensor types with their blocks and bits per weight, or the file types."""
    import modelfmt

    if files:
        from modelfmt.quant.recipes import FILE_TYPES

        rows = [
            {"name": r.name, "number": r.number, "base": r.base, "needs_importance": r.needs_importance}
            for r in FILE_TYPES.values()
        ]
        if json:
            emit(as_json({"schema": "modelfmt.file_types/1", "types": rows}))
            return
        cells = ((r["name"], r["number"], r["base"], "needs --imatrix" if r["needs_importance"] else "") for r in rows)
        emit(table(cells, ("file type", "number", "base", ""), right=[1]))
        return
    found = modelfmt.types()
    if json:
        emit(as_json({"schema": "modelfmt.types/1", "types": [row._asdict() for row in found]}))
        return
    words = {(True, True): "quantize, dequantize", (False, True): "dequantize", (True, False): "quantize"}
    lines = (
        (
            r.name,
            r.block_elements,
            r.block_bytes,
            f"{r.bits_per_weight:.4g}",
            words.get((r.can_quantize, r.can_dequantize), "copy only"),
            ", ".join(
                text
                for text, said in (("needs importance", r.needs_importance), ("best rounding", r.can_refine))
                if said
            ),
        )
        for r in found
    )
    emit(table(lines, ("type", "elements", "bytes", "bits", "", ""), right=[1, 2, 3]))
