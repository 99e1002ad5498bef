"""Metadata of the golden checkpoints against what llama.cpp's converter wrote for them, key by key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelfmt.tokenizers import gguf_metadata, read
from tokenizer_texts import load

NAMES = sorted(path.stem for path in (Path(__file__).parent / "data" / "golden" / "gguf").glob("*.json"))

# Where llama.cpp's converter is wrong and we differ on purpose (docs/tokenizers.md has the reasons).
DIFFERENT = {
    "gemma2": {"tokenizer.ggml.token_type"},
    "gemma3": {"tokenizer.ggml.token_type"},
    "modernbert": {"tokenizer.ggml.seperator_token_id", "tokenizer.ggml.add_sep_token"},
}


def summary(value: Any) -> Any:
    """A value as the golden files hold it: arrays over 16 entries as length and digest."""
    value = list(value) if isinstance(value, bytes) else value
    if isinstance(value, list) and len(value) > 16:
        digest = hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
        return {"length": len(value), "sha256": digest}
    return value


def both(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    files, config = load(golden / "checkpoints" / name)
    tok = read(files, config=config)
    assert tok is not None
    ours = {key: {"type": kind.split(":"), "value": summary(value)} for key, kind, value in gguf_metadata(tok)}
    written = json.loads((golden / "gguf" / f"{name}.json").read_text())["metadata"]
    return ours, {key: entry for key, entry in written.items() if key.startswith("tokenizer.")}


def test_every_checkpoint_has_a_reference() -> None:
    assert len(NAMES) == 20


@pytest.mark.parametrize("name", NAMES)
def test_metadata_equals_that_of_llama_cpp(golden: Path, name: str) -> None:
    ours, theirs = both(golden, name)
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing == DIFFERENT.get(name, set())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "modernbert"])
def test_keys_come_in_the_order_of_llama_cpp(golden: Path, name: str) -> None:
    ours, theirs = both(golden, name)
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_user_defined_pieces_keep_their_type_and_nothing_else_differs(golden: Path, name: str) -> None:
    files, config = load(golden / "checkpoints" / name)
    tok = read(files, config=config)
    assert tok is not None
    assert [tok.tokens[i] for i, kind in enumerate(tok.token_types) if kind == 4] == [
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    written = json.loads((golden / "gguf" / f"{name}.json").read_text())["metadata"]["tokenizer.ggml.token_type"][
        "value"
    ]
    assert summary([1 if kind == 4 else kind for kind in tok.token_types]) == written
