"""RWKV World's own vocabulary: `pip install rwkv pyrwkv-tokenizer`, then `python tests/rwkv_world.py`.

For each text of tokenizer_fuzz.py, the ids of llama.cpp's runtime from our metadata beside those of both packages; and
the vocabulary file that is made of the metadata beside theirs. Prints what docs/tokenizers.md says.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_vocab import Vocab, write_vocab
from modelfmt.tokenizers import gguf_metadata, read
from modelfmt.tokenizers.from_gguf import from_metadata
from modelfmt.tokenizers.rebuild import rebuild
from modelfmt.tokenizers.rwkv import NAME
from tokenizer_fuzz import texts


def main() -> int:
    from pyrwkv_tokenizer import RWKVTokenizer
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    folder = Path(find_spec("rwkv").submodule_search_locations[0])  # type: ignore[union-attr, index]
    raw = (folder / NAME).read_bytes()
    tok = read({NAME: raw}, config={"vocab_size": 65536})
    assert tok is not None
    written = gguf_metadata(tok)
    again = from_metadata({key: value for key, _, value in written})
    assert again is not None
    same = rebuild(again).files[NAME] == raw.replace(b"\r\n", b"\n")
    peers = {"rwkv": TRIE_TOKENIZER(str(folder / NAME)), "pyrwkv-tokenizer": RWKVTokenizer()}
    wrong = dict.fromkeys(peers, 0)
    with TemporaryDirectory() as work:
        vocab = Vocab(write_vocab(Path(work) / "vocab.gguf", written))
        for text in texts():
            ids = vocab.encode(text)
            for name, peer in peers.items():
                wrong[name] += list(peer.encode(text)) != ids
    print(f"{len(tok)} tokens; file made again is the original's: {same}; of {len(texts())} texts other ids: {wrong}")
    return int(not same or any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
