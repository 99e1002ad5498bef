"""One spelling for regular expressions that mean the same, so that pre-tokenizers can be compared as text.

Rewrites only what cannot change a match in these patterns: control characters and needless escapes, spelled-out case
insensitivity of English contractions, possessive quantifiers, `{1}`, one-item classes, and a closing `|\\s+`, which
matches exactly what is left between the other matches. No expression is compiled or run.
"""

from __future__ import annotations

__all__ = ["canonical"]

_CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTRACTIONS = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    "'(?i:[sdmt]|ll|ve|re)",
    "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
)
_SAME = (
    ("[\\p{L}]", "\\p{L}"),
    ("[\\p{N}]", "\\p{N}"),
    ("[\\p{Han}]", "\\p{Han}"),
    ("\\p{Letter}", "\\p{L}"),
    ("\\p{Number}", "\\p{N}"),
    ("{1}", ""),
    ("{1,}", "+"),
    ("{0,1}", "?"),
)
_TAILS = ("|\\s+$", "|\\s+", "|\\s")
_PLAIN_OUTSIDE = "'\"/<>, !#&%~@:;=-_`"
_PLAIN_INSIDE = "'\"/<>, !#&%~@:;=_`.$*+?(){}|"


def canonical(pattern: str) -> str:
    """The one spelling of a pattern.

    >>> canonical("\\\\p{N}{1}|(?i:'s|'t|'re|'ve|'m|'ll|'d)") == canonical("\\\\p{N}|'(?i:[sdmt]|ll|ve|re)")
    True
    """
    text = "".join(_tokens(pattern))
    for spelling in _CONTRACTIONS:
        text = text.replace(spelling, "<contractions>")
    for spelling, same in _SAME:
        text = text.replace(spelling, same)
    if text.startswith("(?:") and text.endswith(")") and _closes_at_end(text):
        text = text[3:-1]
    for tail in _TAILS:
        if text.endswith("\\s+(?!\\S)" + tail):
            text = text[: -len(tail)]
    return text


def _tokens(pattern: str) -> list[str]:
    """The pattern in pieces: control characters escaped, needless escapes and possessive marks dropped."""
    pieces: list[str] = []
    inside = 0
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\" and at < len(pattern):
            char = pattern[at]
            at += 1
            if char in "pP" and pattern[at : at + 1] == "{" and "}" in pattern[at : at + 24]:
                close = pattern.index("}", at) + 1
                pieces.append(f"\\{char}{pattern[at:close]}")
                at = close
                continue
            plain = _PLAIN_INSIDE if inside else _PLAIN_OUTSIDE
            pieces.append(char if char in plain else _CONTROL.get(char, "\\" + char))
            continue
        if char == "[":
            inside += 1
        elif char == "]" and inside:
            inside -= 1
        elif char == "+" and not inside and pieces and pieces[-1] in ("+", "?", "*", "}"):
            continue
        pieces.append(_CONTROL.get(char, char))
    return pieces


def _closes_at_end(text: str) -> bool:
    """Whether the group that opens the text is closed by its last character."""
    depth = 0
    inside = escaped = False
    for i, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif inside:
            inside = char != "]"
        elif char == "[":
            inside = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False
