"""The front matter of a model card: the YAML between the two `---` lines that open a README.md.

Read is the subset of YAML 1.1 that cards use: block and flow sequences and mappings, plain, quoted, literal and folded
scalars, comments. Not read: anchors and aliases, tags, complex keys (`? `), directives. What is not read, or is not
YAML, becomes a note and is left out; the rest of the card is kept. Nothing here raises, whatever the bytes.

Scalars stay text, except null: `version: 1.10` is "1.10" and `language: no` is "no", where YAML's implicit types make
1.1 and False of them. A tab counts as two spaces, as in llama.cpp. Source: yaml.org/spec/1.1; PyYAML where it differs.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from modelfmt.report import Note

__all__ = ["DEPTH_LIMIT", "LIMIT", "ModelCard", "Node", "parse"]

LIMIT = 4 << 20
"""Bytes of a README.md that are looked at; the longest cards, with tables of benchmark results, are near 1 MiB."""

DEPTH_LIMIT = 32
NOTES_LIMIT = 100
"""Notes about one card; what comes after that many is not read, so that a hostile card costs little."""

Node: TypeAlias = "str | list[Node] | dict[str, Node] | None"

_FENCE = "---"
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_KEY_LIMIT = 1024
_NOT_PLAIN = re.compile(r"[,\[\]{}#&*!|>'\"%@`]|[-?:](?= |$)")
_COMMENT_OR_END = re.compile(r" *(?:$|(?<= )#)")
_COLON = re.compile(r":(?= |$)")
_QUOTED_KEY = re.compile(r""""((?:[^"\\]|\\.)*+)" *:(?= |$)|'((?:[^']|'')*+)' *:(?= |$)""")
_QUOTED_LINE = {"'": re.compile(r"((?:[^']|'')*+)('?)"), '"': re.compile(r'((?:[^"\\]|\\.)*+\\?)("?)')}
_LINE_BREAKS = re.compile(r"(?<! ) *\n[ \n]*")
_HEX = r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})"
_ESCAPE = re.compile(rf"\\(?:{_HEX}|(\n)[ \n]*|(.))|{_LINE_BREAKS.pattern}")
_FLOW_PLAIN_END = re.compile(r"[,\[\]{}]|:(?=[ ,\[\]{}]|$)| #")
_BLOCK_HEADER = re.compile(r"([|>])(?:([-+])?([1-9])?|([1-9])([-+]))(?= |$)")
_ESCAPED = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b", " ": " ",
    '"': '"', "\\": "\\", "/": "/", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip


class ModelCard(dict[str, Node]):
    """What the front matter says; `notes` lists what could not be read, each with its line in README.md."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Note] = []


def parse(readme: bytes) -> ModelCard:
    """The front matter of a README.md as nested dicts and lists of text and None; empty where there is none.

    >>> parse(b"---\\nlicense: mit\\nlanguage: [en, no]\\n---\\n# A model")
    {'license': 'mit', 'language': ['en', 'no']}
    """
    card = ModelCard()
    lines = readme[:LIMIT].decode("utf-8", errors="replace").removeprefix("\ufeff").splitlines()
    if not lines or lines[0] != _FENCE:
        return card
    try:
        lines = lines[1 : lines.index(_FENCE, 1)]
    except ValueError:
        card.notes.append(Note("README.md", f"the front matter has no closing {_FENCE} line; it is not read"))
        return card
    if any("\ufffd" in line for line in lines):
        card.notes.append(Note("README.md", "bytes that are not UTF-8 are read as U+FFFD"))
    card.update(_Reader(lines, card.notes).root())
    return card


class _Unreadable(Exception):
    """What stands here is outside the subset, or not YAML. Never leaves this file."""


class _Reader:
    """A cursor (line, column) over the lines.

    A key or a dash that has been read is overwritten with spaces: what follows it then stands alone on its line, in its
    own column, and is read like any other block.
    """

    def __init__(self, lines: list[str], notes: list[Note]) -> None:
        self.lines = [line.replace("\t", "  ") for line in lines]
        self.notes = notes
        self.line = 0
        self.column = 0

    def root(self) -> dict[str, Node]:
        indent = self.skip()
        if indent < 0:
            return {}
        if self.lines[self.line][indent] != "{":
            return self.mapping(indent, 0)
        start = self.line
        try:
            node = self.scalar(0, 0)
        except _Unreadable as why:
            self.note(start, str(why))
            return {}
        if self.skip() >= 0:
            self.note(self.line, "text after the end of the mapping")
        return node if isinstance(node, dict) else {}

    # -- blocks -------------------------------------------------------------------------------------------------------

    def skip(self) -> int:
        """To the next line that is neither blank nor a comment; returns its indentation, -1 at the end."""
        while self.line < len(self.lines):
            text = self.lines[self.line].lstrip(" ")
            if text and text[0] != "#":
                self.column = len(self.lines[self.line]) - len(text)
                return self.column
            self.line += 1
        return -1

    def node(self, least: int, depth: int) -> Node:
        """The node that starts on the next line; null where that line is indented by less than `least`."""
        indent = self.skip()
        if indent < least:
            return None
        if depth > DEPTH_LIMIT:
            raise _Unreadable(f"nested more than {DEPTH_LIMIT} deep")
        if self.at_dash(indent):
            return self.sequence(indent, depth)
        if self.key() is not None:
            return self.mapping(indent, depth)
        return self.scalar(least, depth)

    def mapping(self, indent: int, depth: int) -> dict[str, Node]:
        out: dict[str, Node] = {}
        while (found := self.skip()) >= indent:
            start = self.line
            try:
                key = self.key() if found == indent else None
                if key is None:
                    raise _Unreadable("`key: value` expected" if found == indent else "unexpected indentation")
                self.overwrite(key[1])
                value = self.value(indent, depth + 1)
                if key[0] in out:
                    self.note(start, f"{key[0]!r} is there twice; the last one counts")
                out[key[0]] = value
            except _Unreadable as why:
                self.give_up(start, indent, why)
        return out

    def value(self, indent: int, depth: int) -> Node:
        """The value of a key that stood at `indent`: the rest of its line, or the block below."""
        line = self.line
        found = self.skip()
        if self.line == line:
            return self.scalar(indent + 1, depth)
        if found == indent and self.at_dash(indent):
            return self.sequence(indent, depth)
        return self.node(indent + 1, depth)

    def sequence(self, indent: int, depth: int) -> list[Node]:
        out: list[Node] = []
        while (found := self.skip()) >= indent:
            start = self.line
            if found == indent and not self.at_dash(indent):
                break
            try:
                if found > indent:
                    raise _Unreadable("unexpected indentation")
                self.overwrite(indent + 1)
                out.append(self.node(indent + 1, depth + 1))
            except _Unreadable as why:
                self.give_up(start, indent, why)
        return out

    def at_dash(self, column: int) -> bool:
        return self.lines[self.line][column : column + 2] in ("-", "- ")

    def key(self) -> tuple[str, int] | None:
        """The key at the cursor and the column behind its colon; None where no key stands."""
        line = self.lines[self.line]
        if line[self.column] in "\"'":
            quoted = _QUOTED_KEY.match(line, self.column)
            if quoted is None:
                return None
            return (_unescape(quoted[1]) if quoted[2] is None else quoted[2].replace("''", "'")), quoted.end()
        colon = _COLON.search(line, self.column)
        if colon is None or colon.start() - self.column > _KEY_LIMIT or _NOT_PLAIN.match(line, self.column):
            return None
        text = line[self.column : colon.start()].rstrip(" ")
        return None if " #" in text else (text, colon.end())

    def overwrite(self, end: int) -> None:
        self.lines[self.line] = " " * end + self.lines[self.line][end:]

    def give_up(self, start: int, indent: int, why: _Unreadable) -> None:
        """Notes why the entry that began on line `start` is left out, and goes behind it."""
        self.line = start + 1
        self.note(start, str(why))
        while self.skip() > indent:
            self.line += 1

    def note(self, line: int, why: str) -> None:
        self.notes.append(Note(f"README.md:{line + 2}", why))
        if len(self.notes) >= NOTES_LIMIT:
            self.notes.append(Note(f"README.md:{line + 2}", "too much that cannot be read; the rest is left out"))
            del self.lines[line + 1 :]

    # -- scalars ------------------------------------------------------------------------------------------------------

    def scalar(self, least: int, depth: int) -> Node:
        """The scalar or flow collection at the cursor; what it goes on with below is indented by `least` or more."""
        first = self.lines[self.line][self.column]
        if first in "|>":
            return self.block_scalar(least)
        if first not in "\"'[{":
            return self.plain(least)
        node = self.flow(depth)
        if not _COMMENT_OR_END.match(self.lines[self.line], self.column):
            raise _Unreadable("text after the end of a value")
        self.line += 1
        return node

    def plain(self, least: int) -> str | None:
        self.refuse_indicator()
        parts: list[str] = []
        while True:
            text, comment, _ = self.lines[self.line][self.column :].partition(" #")
            parts.append(text.rstrip(" "))
            if _COLON.search(parts[-1]):
                raise _Unreadable("a value with a colon and a space in it must be quoted")
            if (blank_lines := self.continued(least)) < 0 or comment:
                break
            parts.append(_fold(blank_lines))
        text = "".join(parts)
        return None if text in _NULLS else text

    def refuse_indicator(self) -> None:
        line = self.lines[self.line]
        if not _NOT_PLAIN.match(line, self.column):
            return
        if line[self.column] in "&*!":
            raise _Unreadable("anchors (&), aliases (*) and tags (!) are not read")
        raise _Unreadable(f"a value that starts with {line[self.column]!r} must be quoted")

    def continued(self, least: int) -> int:
        """To the line that a plain scalar goes on with; returns the blank lines before it, -1 where it has ended."""
        start = self.line = self.line + 1
        while self.line < len(self.lines):
            text = self.lines[self.line].lstrip(" ")
            if text:
                self.column = len(self.lines[self.line]) - len(text)
                return self.line - start if self.column >= least and text[0] != "#" else -1
            self.line += 1
        return -1

    def quoted(self) -> str:
        """The quoted text at the cursor, to behind its closing quote, which may be lines below."""
        quote = self.lines[self.line][self.column]
        self.column += 1
        parts: list[str] = []
        while self.line < len(self.lines):
            found = _QUOTED_LINE[quote].match(self.lines[self.line], self.column)
            assert found is not None, "the pattern matches the empty text"
            parts.append(found[1])
            if found[2]:
                self.column = found.end()
                text = "\n".join(parts)
                return _unescape(text) if quote == '"' else _LINE_BREAKS.sub(_unfold, text).replace("''", "'")
            self.line += 1
            self.column = 0
        raise _Unreadable("a quote is not closed")

    def block_scalar(self, least: int) -> str:
        header = _BLOCK_HEADER.match(self.lines[self.line], self.column)
        if header is None or not _COMMENT_OR_END.match(self.lines[self.line], header.end()):
            raise _Unreadable("a value that starts with | or > must be quoted")
        style, chomping, digit = header[1], header[2] or header[5], header[3] or header[4]
        self.line += 1
        indent = least + int(digit) - 1 if digit else max(least, self.content_indent(least))
        lines: list[str] = []
        while self.line < len(self.lines) and not self.lines[self.line][:indent].strip(" "):
            lines.append(self.lines[self.line][indent:])
            self.line += 1
        n_lines = len(lines)
        while lines and not lines[-1]:
            lines.pop()
        text = "\n".join(lines) if style == "|" else _fold_lines(lines)
        if chomping == "+":
            return text + "\n" * (n_lines - len(lines) + bool(lines))
        return text + "\n" if lines and chomping is None else text

    def content_indent(self, least: int) -> int:
        """Of a block scalar: of its first line with text, or of its widest blank line where it has no text."""
        widest = 0
        for at in range(self.line, len(self.lines)):
            line = self.lines[at]
            indent = len(line) - len(line.lstrip(" "))
            if indent < len(line):
                return indent if indent >= least else widest
            widest = max(widest, indent)
        return widest

    # -- flow collections ---------------------------------------------------------------------------------------------

    def flow(self, depth: int) -> Node:
        first = self.peek()
        if first in "\"'":
            return self.quoted()
        if first not in "[{":
            return self.flow_plain()
        if depth > DEPTH_LIMIT:
            raise _Unreadable(f"nested more than {DEPTH_LIMIT} deep")
        return self.flow_sequence(depth) if first == "[" else self.flow_mapping(depth)

    def peek(self) -> str:
        """The next character, over spaces, comments and line ends; the cursor is then on it."""
        while self.line < len(self.lines):
            line = self.lines[self.line]
            rest = _COMMENT_OR_END.match(line, self.column)
            if rest is None:
                self.column = len(line) - len(line[self.column :].lstrip(" "))
                if self.column or line[0] != "#":
                    return line[self.column]
            self.line += 1
            self.column = 0
        raise _Unreadable("a bracket is not closed")

    def flow_sequence(self, depth: int) -> list[Node]:
        out: list[Node] = []
        self.column += 1
        while self.peek() != "]":
            item = self.flow(depth + 1)
            out.append({_as_key(item): self.flow_value(depth)} if self.peek() == ":" else item)
            self.comma("]")
        self.column += 1
        return out

    def flow_mapping(self, depth: int) -> dict[str, Node]:
        out: dict[str, Node] = {}
        self.column += 1
        while self.peek() != "}":
            key = _as_key(self.flow(depth + 1))
            out[key] = self.flow_value(depth) if self.peek() == ":" else None
            self.comma("}")
        self.column += 1
        return out

    def flow_value(self, depth: int) -> Node:
        self.column += 1
        return None if self.peek() in ",]}" else self.flow(depth + 1)

    def comma(self, close: str) -> None:
        found = self.peek()
        if found == ",":
            self.column += 1
        elif found != close:
            raise _Unreadable(f"a comma or {close} expected")

    def flow_plain(self) -> str | None:
        self.refuse_indicator()
        parts: list[str] = []
        while True:
            line = self.lines[self.line]
            end = _FLOW_PLAIN_END.search(line, self.column)
            parts.append(line[self.column : end.start() if end else len(line)].rstrip(" "))
            if end:
                self.column = end.start()
                break
            blank_lines = self.continued(0)
            if blank_lines < 0 or _FLOW_PLAIN_END.match(self.lines[self.line], self.column):
                break
            parts.append(_fold(blank_lines))
        text = "".join(parts)
        return None if text in _NULLS else text


def _as_key(node: Node) -> str:
    if not isinstance(node, str):
        raise _Unreadable("a key must be text")
    return node


def _fold(blank_lines: int) -> str:
    """What a line break with that many blank lines behind it becomes inside a scalar."""
    return "\n" * blank_lines or " "


def _fold_lines(lines: list[str]) -> str:
    """The lines of a folded block scalar as one text; lines that are indented further keep their breaks."""
    parts: list[str] = []
    last, blank_lines = "", 0
    for line in lines:
        if not line:
            blank_lines += 1
            continue
        if not last:
            parts.append("\n" * blank_lines)
        elif last[0] == " " or line[0] == " ":
            parts.append("\n" * (blank_lines + 1))
        else:
            parts.append(_fold(blank_lines))
        parts.append(line)
        last, blank_lines = line, 0
    return "".join(parts)


def _unfold(breaks: re.Match[str]) -> str:
    return _fold(breaks[0].count("\n") - 1)


def _unescape(text: str) -> str:
    """The inside of a double-quoted scalar: escapes resolved, line breaks folded."""
    text = _ESCAPE.sub(_escape, text)
    if any("\ud800" <= c <= "\udfff" for c in text):  # JSON writes what lies beyond U+FFFF as two \u escapes
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _escape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    if code:
        if int(code, 16) > 0x10FFFF:
            raise _Unreadable("an escape beyond U+10FFFF")
        return chr(int(code, 16))
    if found[4]:
        return "\n" * (found[0].count("\n") - 1)
    if not found[5]:
        return _unfold(found)
    if found[5] not in _ESCAPED:
        raise _Unreadable(f"an unknown escape \\{found[5]}")
    return _ESCAPED[found[5]]
