"""The rooms keep their order: nothing imports upwards or sideways, and `import modelfmt` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "modelfmt"
LEVELS: dict[str, int] = {
    name: level
    for level, names in enumerate(
        (
            ("errors", "_kernels"),
            ("report", "ir", "storage"),
            ("kernels", "arrays"),
            ("grids",),
            ("tiles", "pickles"),
            ("formats", "archs", "tokenizers", "quant"),
            ("checkpoints", "graphs"),
            ("sources",),
            ("routes",),
            ("tiling",),
            ("plans",),
            ("executor",),
            ("inspection", "conversion", "imatrix", "scanning", "verifying"),
            ("cli",),
            ("__main__",),
        )
    )
    for name in names
}
ORDERED_INSIDE = {"ir", "storage", "report"}
SEPARATE = ("formats",)
HEAVY = ("numpy", "torch", "onnx", "transformers", "ml_dtypes", "click", "msgspec")


def imported(path: Path) -> list[str]:
    """Every modelfmt module that a file imports, wherever in the file, dotted below the package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "modelfmt"
            and not node.level
        ):
            rest = node.module.split(".")[1:]
            found += [".".join(rest)] if rest else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("modelfmt.")]
    return found


FILES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down_only(path: Path) -> None:
    own = path.relative_to(SRC).with_suffix("").parts
    room = own[0]
    assert room in LEVELS, f"{room} has no level: add it to the table"
    for target in imported(path):
        other = target.split(".")[0]
        if other == room or other == "__version__":
            if room in SEPARATE and target.count(".") and len(own) > 1 and own[1] != "__init__":
                family = own[1].split("_")[0]
                assert target.split(".")[1].startswith(family), f"{own} imports its neighbour {target}"
            continue
        assert LEVELS[other] < LEVELS[room] or {other, room} <= ORDERED_INSIDE, f"{'.'.join(own)} imports {target}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, modelfmt; print([name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    import modelfmt

    for name in modelfmt.__all__:
        assert getattr(modelfmt, name) is not None
