"""Model cards against PyYAML: equal, or the card says what it could not read. Never an exception, never slow."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCardData
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelfmt.checkpoints import model_card

CARDS = sorted((Path(__file__).parent / "data" / "cards").glob("*.md"))


class TextLoader(yaml.SafeLoader):
    """PyYAML without implicit types, except null: what model_card.parse promises."""

    yaml_implicit_resolvers = {  # noqa: RUF012 the base class's own attribute
        first: [(tag, pattern) for tag, pattern in rows if tag.endswith(":null")]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def reference(front_matter: str) -> Any:
    return yaml.load("\n".join(front_matter.replace("\t", "  ").splitlines()) + "\n", TextLoader)


def parse(front_matter: str) -> model_card.ModelCard:
    return model_card.parse(f"---\n{front_matter}\n---\n# Title\n- not: [front matter\n".encode())


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_written_cards_equal_pyyaml(path: Path) -> None:
    readme = path.read_bytes()
    card = model_card.parse(readme)
    assert card == reference(readme.decode().split("---\n")[1])
    assert card
    assert card.notes == []
    assert model_card.parse(readme.replace(b"\n", b"\r\n")) == card


def test_a_card_of_the_hubs_own_library_equals_pyyaml() -> None:
    results = [
        EvalResult(
            "text-generation", "org/set", f"A set: no. {i}", "acc", i / 7, dataset_args={"split": "test", "n": [1, 2]}
        )
        for i in range(50)
    ]
    text = ModelCardData(
        model_name="a-model",
        eval_results=results,
        language=["en", "no"],
        license="other",
        tags=["x: y", "- z", "#", "'", '"'],
    ).to_yaml()
    card = parse(text)
    assert card == reference(text)
    assert card.notes == []
    assert card["language"] == ["en", "no"]


@pytest.mark.parametrize(
    "readme",
    [
        b"",
        b"# Title",
        b"\n---\na: b\n---\n",
        b"--- \na: b\n---\n",
        b"---\n---\n",
        b"---\n# only a comment\n\n---\n",
        b"\xff\xfe---",
    ],
)
def test_no_front_matter_is_an_empty_card(readme: bytes) -> None:
    card = model_card.parse(readme)
    assert card == {}
    assert card.notes == []


# front matter -> what is read, the line and a word of each note
BROKEN: list[tuple[str, Any, list[tuple[int, str]]]] = [
    ("a: x: y\nb: c", {"b": "c"}, [(2, "colon")]),
    ("a: &anchor x\nb: *anchor\nc: !!str d\ne: f", {"e": "f"}, [(2, "anchors"), (3, "aliases"), (4, "tags")]),
    ("a: b\n  c: d\ne: f", {"e": "f"}, [(2, "colon")]),
    ("a: 'b'\n  c: d\ne: f", {"a": "b", "e": "f"}, [(3, "indentation")]),
    ("a:\n    b: c\n  d: e\nf: g", {"a": {"b": "c"}, "f": "g"}, [(4, "indentation")]),
    ("just text\na: b", {"a": "b"}, [(2, "key: value")]),
    ("- a\n- b", {}, [(2, "key: value"), (3, "key: value")]),
    ("a: 1\na: 2", {"a": "2"}, [(3, "twice")]),
    ('a: "b\nc: d', {"c": "d"}, [(2, "quote is not closed")]),
    ('a: "\\q"\nb: c', {"b": "c"}, [(2, "escape")]),
    ('a: "\\U00110000"\nb: c', {"b": "c"}, [(2, "U+10FFFF")]),
    ("a: [b, c\n\nd: e", {"d": "e"}, [(2, "bracket is not closed")]),
    ("a: [b, {c: d]\ne: f", {"e": "f"}, [(2, "comma or }")]),
    ("a: [b]c\nd: e", {"d": "e"}, [(2, "after the end")]),
    ("a: {[b]: c}\nd: e", {"d": "e"}, [(2, "key must be text")]),
    ("a: |x\nb: c", {"b": "c"}, [(2, "| or >")]),
    ("a: @b\nc: %d\ne: - f", {}, [(2, "'@'"), (3, "'%'"), (4, "'-'")]),
    ("? a\n: b\nc: d", {"c": "d"}, [(2, "key: value"), (3, "key: value")]),
    ("a:\n- b: [\n- c\nd: e", {"a": [{}, "c"], "d": "e"}, [(3, "'-'")]),
    ("{a: b}\nc: d", {"a": "b"}, [(3, "after the end")]),
    ("{a: b", {}, [(2, "bracket")]),
]


@pytest.mark.parametrize(("text", "value", "notes"), BROKEN, ids=[row[0] for row in BROKEN])
def test_what_cannot_be_read_is_noted_and_the_rest_is_kept(text: str, value: Any, notes: list[tuple[int, str]]) -> None:
    card = parse(text)
    assert card == value
    assert [note.subject for note in card.notes] == [f"README.md:{line}" for line, _ in notes]
    for note, (_, word) in zip(card.notes, notes, strict=True):
        assert word in note.detail


def test_an_open_front_matter_is_not_read() -> None:
    card = model_card.parse(b"---\nlicense: mit\n# Title\ntext")
    assert card == {}
    assert "no closing ---" in card.notes[0].detail


def test_bytes_that_are_not_utf8_are_noted() -> None:
    card = model_card.parse(b"---\nname: caf\xe9\n---\n")
    assert card == {"name": "caf\ufffd"}
    assert "UTF-8" in card.notes[0].detail


def test_a_byte_order_mark_is_skipped() -> None:
    assert model_card.parse(b"\xef\xbb\xbf---\na: b\n---\n") == {"a": "b"}


def test_escaped_surrogate_pairs_become_one_character() -> None:
    assert parse(r'a: "\ud83d\ude00 \ud83d"') == {"a": "\U0001f600 \ufffd"}


def test_nesting_is_bounded() -> None:
    limit = model_card.DEPTH_LIMIT
    blocks = "\n".join(" " * i + "a:" for i in range(limit + 5))
    for text in (blocks, "a: " + "[" * (limit + 5), "a:\n" + "- " * (limit + 5) + "x"):
        card = parse(text + "\nb: c")
        assert any("deep" in note.detail for note in card.notes)
        assert len(card.notes) <= 3


PIECES = (
    "a: [\n",
    "a: [x,\n",
    "a], b: [[\n",
    "[",
    "{a: ",
    "- ",
    "- [\n",
    'a: "\n',
    "a: '\n",
    "a: |\n",
    "a: >\n\n",
    "a: b\n  c: d\n",
)
PIECES += (
    "x" * 99 + " ",
    " " * 99,
    " " * 99 + "\n",
    "\\",
    '"\\',
    "''",
    ": ",
    " #",
    "a: @\n",
    "a: b\n",
    "? ",
    "\n",
    "a:\n ",
    '"a" : \\\\',
)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("before", ["", "a: ", 'a: "', "a: [", "a:\n  "])
def test_hostile_cards_cost_little(piece: str, before: str) -> None:
    text = before + piece * (2**18 // len(piece))
    began = time.process_time()
    card = parse(text)
    assert time.process_time() - began < 3
    assert len(card.notes) <= model_card.NOTES_LIMIT + 40


def test_only_the_limit_is_looked_at() -> None:
    card = model_card.parse(b"---\na: " + b"b" * model_card.LIMIT + b"\n---\n")
    assert card == {}
    assert "no closing" in card.notes[0].detail


TEXT = st.text(st.sampled_from("abZ01 -:,#'\"\\[]{}|>\né😀~!&*%@`?.\x1b\u2028\xa0\x85"), max_size=20)
KEYS = st.text(st.sampled_from("abZ01 -:,#'\"\\[]{}|>é😀~!&*%@`?."), min_size=1, max_size=9)


@st.composite
def written_by_pyyaml(draw: st.DrawFn) -> str:
    style = draw(st.sampled_from([None, None, "'", '"', "|", ">"]))
    leaves = TEXT if style else st.none() | TEXT  # a style forces the tag !!null, which is outside the subset
    nodes = st.recursive(
        leaves, lambda node: st.lists(node, max_size=4) | st.dictionaries(KEYS, node, max_size=4), max_leaves=9
    )
    return yaml.safe_dump(
        draw(st.dictionaries(KEYS, nodes, min_size=1, max_size=4)),
        default_flow_style=draw(st.sampled_from([None, True, False])),
        default_style=style,
        width=draw(st.sampled_from([10, 20, 80])),
        indent=draw(st.sampled_from([2, 3, 4])),
        allow_unicode=draw(st.booleans()),
    )


@given(written_by_pyyaml())
@settings(max_examples=400, deadline=None)
def test_what_pyyaml_writes_is_read(text: str) -> None:
    # outside the subset: complex keys, document ends
    assume(not any(re.match(r"[ -]*\? |(\.\.\.|---)$", line) for line in text.splitlines()))
    read = parse(text)
    assert read == reference(text)
    assert read.notes == []


SCRAPS = [
    "a: b",
    "k2: ",
    "key:",
    "- ",
    "- c",
    "  ",
    "    ",
    "\n",
    "\n",
    "\n",
    "\n\n",
    '"',
    '"x y"',
    "'",
    "it's",
    "[",
    "]",
    "{",
    "}",
]
SCRAPS += [", ", ": ", ":", "#", " # c", "|", "|-", "|+", ">", ">-", "2", "foo bar", "1.0", "-", "\\", "\\n", "é"]
SCRAPS += ["x: y\n", "  - z\n", "z: [", 'u: "']


@given(st.lists(st.sampled_from(SCRAPS), min_size=1, max_size=14).map("".join))
@settings(max_examples=3000, deadline=None)
def test_scraps_equal_pyyaml_or_are_noted(text: str) -> None:
    assume("---" not in text.splitlines())
    card = parse(text)
    try:
        expected = reference(text)
    except yaml.YAMLError:
        return
    if not card.notes:
        assert card == (expected or {})


@given(st.binary(max_size=200).map(lambda tail: b"---\n" + tail + b"\n---\n") | st.binary(max_size=50))
@settings(max_examples=500, deadline=None)
def test_any_bytes_give_a_card(readme: bytes) -> None:
    assert isinstance(model_card.parse(readme), dict)
