"""Computes an importance matrix in llama.cpp: how strongly the activations of a text drive each column of each weight.

    python benchmarks/importance.py MODEL TEXT OUT.gguf [--window 256] [--windows 128]

MODEL is a GGUF file, or what modelfmt turns into one (then as F32). The text is cut into windows of so many tokens,
each computed on its own. For every weight `blk.*` that meets 16 tokens or more at once, the squares of what it meets
are summed column by column, and the tokens counted, for each expert on its own: tools/imatrix/imatrix.cpp of llama.cpp,
without --process-output; sums are kept in float64 here. llama.cpp is the library in the xllamacpp package.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import modelfmt
from modelfmt.checkpoints.importance import write
from modelfmt.quant.imatrix import Importance

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from llama import Network, Session
from llama_products import Observer, Product
from llama_vocab import Vocab


class Sums:
    """float64 [matrices, columns] of squares and [matrices] of counts, for each weight."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def add(self, product: Product) -> None:
        """The activations of one product."""
        if product.weight not in self.found:
            shape = product.n_matrices, product.rows.shape[1]
            self.found[product.weight] = np.zeros(shape), np.zeros(product.n_matrices)
        squares, counts = self.found[product.weight]
        for matrix in np.unique(product.matrix):
            rows = product.rows[product.matrix == matrix].astype(np.float64)
            squares[matrix] += (rows * rows).sum(axis=0)
            counts[matrix] += len(rows)


def collect(path: Path, texts: Sequence[Sequence[int]], dataset: str, threads: int = 1) -> Importance:
    """The importance matrix of the GGUF model at path, from token ids."""
    sums, size = Sums(), max(map(len, texts))
    # hidden states do for any model: the products of the layers are the same, and an encoder has no logits
    with (
        Network(path) as network,
        Session(network, n_ctx=size, threads=threads, embeddings=True, products=Observer(sums.add)) as session,
    ):
        for text in texts:
            session.run(text)
    return Importance.from_mapping(sums.found, datasets=[dataset], chunk_count=len(texts), chunk_size=size)


def windows(path: Path, text: str, size: int, most: int | None = None) -> list[list[int]]:
    """Token ids of a text by the tokenizer in a GGUF file: whole windows; the token that a text has to start with takes
    the place of a window's first, as in llama-imatrix."""
    vocab = Vocab(path)
    ids, first = vocab.encode(text), vocab.first
    vocab.close()
    starts = range(0, len(ids) - size + 1, size)[:most]
    return [ids[at : at + size] if first is None else [first, *ids[at + 1 : at + size]] for at in starts]


def compute(model: Path, text: Path, out: Path, *, size: int = 256, most: int | None = None, threads: int = 1) -> int:
    """The whole way from files to a file; returns the number of windows."""
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        if model.suffix != ".gguf":
            model = Path(modelfmt.convert(model, Path(folder) / "model.gguf", quant="F32").outputs[0].path)
        texts = windows(model, text.read_text(), size, most)
        write(collect(model, texts, text.name, threads), os.fspath(out), overwrite=True)
    return len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    found = compute(given.model, given.text, given.out, size=given.window, most=given.windows, threads=given.threads)
    print(f"{given.out}: {found} windows of {given.window} tokens of {given.text.name}")


if __name__ == "__main__":
    main()
