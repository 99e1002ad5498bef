"""The last step of every reader: a finished vocabulary, the special tokens and the templates become a Tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..ir.tokenizer import Note, Tokenizer
from .files import Files, integer
from .special import flag_notes, read_special
from .templates import read_templates
from .vocabulary import Vocabulary

__all__ = ["assemble"]

_KEEP_SPACES = ("gpt2", "llama", "gemma4")
"""The kinds in whose ids a space before a special token shows."""


def assemble(
    model: str,
    pre: str,
    vocabulary: Vocabulary,
    files: Files,
    config: Mapping[str, Any],
    *,
    scores: bool = False,
    defaults: Mapping[str, int] | None = None,
    notes: Iterable[Note] = (),
    add_nothing: bool = False,
    **fields: Any,
) -> Tokenizer:
    """A Tokenizer of this vocabulary.

    defaults: special ids for roles that no file gives. add_nothing: where no file says anything of it, no bos is added
    (the runtime adds one under some pre-tokenizer names). fields: whatever else the reader knows of the Tokenizer.
    """
    texts = vocabulary.finish()
    special = read_special(files, config, {text: i for i, text in enumerate(texts)}, vocabulary.types, defaults)
    if add_nothing:
        special.adds.setdefault("bos", False)
    template, named = read_templates(files)
    count = config.get("type_vocab_size")
    if count is not None:
        fields.setdefault("token_type_count", integer(count, path="config.json", place="type_vocab_size"))
    return Tokenizer(
        model=model,
        pre=pre,
        tokens=texts,
        token_types=tuple(int(kind) for kind in vocabulary.types),
        scores=tuple(vocabulary.scores) if scores else None,
        special=special.ids,
        add_bos=special.adds.get("bos"),
        add_eos=special.adds.get("eos"),
        add_sep=special.adds.get("sep"),
        chat_template=template,
        chat_templates=named,
        notes=(*vocabulary.notes, *notes, *special.notes, *flag_notes(files, spaces=model in _KEEP_SPACES)),
        **fields,
    )
