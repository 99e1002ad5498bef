"""Writes what is checked of each architecture, from the tests that check it: `python tests/architecture_page.py`.

src/modelfmt/archs/checked.py for `modelfmt.architectures()`, and the table of docs/architectures.md; both are compared
in test_architectures.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from modelfmt import archs
from modelfmt.archs import hparams
from modelfmt.archs.multimodal import MULTIMODAL, WITHOUT
from modelfmt.archs.table import Architecture
from modelfmt.archs.terms import holds
from modelfmt.archs.values import flat
from modelfmt.inspection import ArchitectureInfo, architectures
from multimodal_models import UNMADE
from test_arch_models import CASES, SEEING, Case
from test_archs import CHECKPOINTS
from test_gguf_to_huggingface import ALL
from test_multimodal import BACK, RUN

ROOT = Path(__file__).parent.parent
PAGE, DATA = ROOT / "docs" / "architectures.md", ROOT / "src" / "modelfmt" / "archs" / "checked.py"
_TABLE = re.compile(r"^\| GGUF \|.*?\n\n", re.MULTILINE | re.DOTALL)
_MULTIMODAL = re.compile(r"^\| class in `config.json` \| types.*?\n\n", re.MULTILINE | re.DOTALL)
_REFUSED = re.compile(r"^\| class in `config.json` \| why not.*?\n\n", re.MULTILINE | re.DOTALL)
_HEAD = '''"""How each table was checked, generated from the tests by tests/architecture_page.py.

golden: tensors and metadata equal what llama.cpp's converter makes of a checkpoint. graph: llama.cpp computes from the
file what transformers computes from the checkpoint. back: the folder that the file becomes is the original's bytes, and
without carried keys computes the same.
"""

from __future__ import annotations

__all__ = ["CHECKED"]

'''


def checked() -> dict[str, tuple[str, ...]]:
    """Table -> ways in which a test checks it."""
    inside = {name: _place(archs.find(name)) for name in (*RUN, "ChameleonForConditionalGeneration")}
    run = {_table_of(case) for case in (*CASES, *SEEING)} | {*inside.values()}
    golden = set(CHECKPOINTS.values())
    back = {_table_of(case) for case in CASES} | {CHECKPOINTS[name] for name in ALL} | {inside[name] for name in BACK}
    ways = (("golden", golden), ("graph", run), ("back", back))
    return {table: tuple(way for way, tables in ways if table in tables) for table in archs.places()}


def _place(arch: Architecture) -> str | None:
    """Where a table is in the registry, also if it is inside another model."""
    names = (arch.gguf, arch.hf, arch.model_type, arch.writes)
    tables = ((place, archs.load(place)) for place in archs.places())
    return next((place for place, one in tables if (one.gguf, one.hf, one.model_type, one.writes) == names), None)


def _table_of(case: Case) -> str:
    """The table that a checkpoint is bound by: that of its class, or a variant of it."""
    config = case.configuration().to_dict()
    arch = archs.find(case.table, config=config)
    place = _place(arch)
    if not arch.variants:
        return place
    scope = {"n_expert": 0} | hparams.read(arch, flat(config))
    for condition, other in arch.variants:
        if any(holds(condition, scope, layer) for layer in range(scope["n_layer"])):
            tables = ((place, archs.load(place)) for place in archs.places())  # `other` may be inside another model
            return next(place for place, one in tables if (one.gguf, one.rows) == (other.gguf, other.rows))
    return place


def data() -> str:
    """The text of checked.py."""
    rows = "".join(
        f'    "{table}": ({", ".join(map(_quoted, ways))}{"," if len(ways) == 1 else ""}),\n'
        for table, ways in checked().items()
    )
    return f"{_HEAD}CHECKED: dict[str, tuple[str, ...]] = {{\n{rows}}}\n"


def table(rows: tuple[ArchitectureInfo, ...]) -> str:
    """The documented table."""
    head = "| GGUF | classes in `config.json` | rope | file | checked | back without carried keys |\n"
    lines = [
        f"| {row.gguf} | {', '.join(row.classes)} | {', '.join(row.rope) or 'none'} | `archs/{row.file}` "
        f"| {', '.join(row.checked) or '-'} | {row.back} |\n"
        for row in rows
    ]
    return head + "| --- | --- | --- | --- | --- | --- |\n" + "".join(lines) + "\n"


def multimodal() -> str:
    """The documented table of classes around a language model."""
    lines = ["| class in `config.json` | types | language model | GGUF |\n", "| --- | --- | --- | --- |\n"]
    for name, row in MULTIMODAL.items():
        unrun = " (not run)" if name in UNMADE or not row.types else ""
        lines.append(f"| {name} | {', '.join(row.types) or '-'} | {row.text} | {archs.find(name).gguf}{unrun} |\n")
    return "".join(lines) + "\n"


def refused() -> str:
    """The documented table of classes that do not convert."""
    lines = [f"| {name} | {why} |\n" for name, why in WITHOUT.items()]
    return "| class in `config.json` | why not |\n| --- | --- |\n" + "".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the tables of today."""
    made = ((_TABLE, table(architectures())), (_MULTIMODAL, multimodal()), (_REFUSED, refused()))
    for place, rows in made:
        text = place.sub(lambda _, rows=rows: rows, text, count=1)
    return text


def _quoted(word: str) -> str:
    return f'"{word}"'


if __name__ == "__main__":
    DATA.write_text(data())
    from importlib import reload

    from modelfmt.archs import checked as module

    reload(module)
    PAGE.write_text(page(PAGE.read_text()))
