"""Texts that tell tokenizers apart (scripts, digits, spaces, contractions, code), and the files of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
    "spiece.model",
)

TEXTS = (
    "Hello world",
    "  Hello   world  ",
    "I'VE been 'told he's there, 'RE you sure? 'M not sure I'll make it, We'Ve a'lL",
    "The quick brown fox's 1234567 jumps: \u00abna\u00efve\u00bb Stra\u00dfe HelloWorld fooBAR x_y/z//w",
    "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440, \u00dcn\u00efc\u00f6d\u00e9 caf\u00e9 \u0391\u0392\u0393",
    "\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e",
    "\u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601 ?",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f 3 33 333 3333 33333 333333 3.3 3..3",
    "def f(x):\n\treturn x**2  # comment\n\n\n\nclass A: pass\r\n",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u0932\u093f\u0916\u0928\u093e",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629: \u0645\u0631\u062d\u0628\u0627\u060c \u0661\u0662\u0663",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u30ab\u30bf\u30ab\u30ca",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8",
    "a\u00a0b\u3000c\u2003d",
    "''''''```````\"\"\"\"......!!!!!!??????",
    "tab\tsep  \n \n  x\n \n\n \n\n\n \t \t\t \t\n  \n   \n",
    "x=1;y=2.5e-10;$z+=3<=4^5|6~7",
    "IMGIMGABZ <sentinel:12> \uff11\uff12\uff13 \uff14",
    " leading",
    "trailing ",
    "",
)
"""No Mongolian, no private use: there the libraries' Unicode versions differ."""


def load(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(tokenizer files by name, parsed config.json or {})."""
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    config = folder / "config.json"
    return files, json.loads(config.read_text()) if config.is_file() else {}
