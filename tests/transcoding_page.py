"""Writes the generated part of docs/transcoding.md: run it after a change of what can go where."""

from __future__ import annotations

from pathlib import Path

from modelfmt.routes import matrix

PAGE = Path(__file__).parent.parent / "docs" / "transcoding.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->\n"


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + matrix.markdown(matrix.matrix()) + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
