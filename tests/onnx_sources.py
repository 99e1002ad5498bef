"""Decoders that onnxruntime-genai's builder made, back to checkpoints, by hand: the largest difference of logits.

    PYTHONPATH=src:tests python tests/onnx_sources.py [NAME ..]

The builder (onnxruntime-genai 0.18) makes int4 and float32 folders of tests/data/golden; config.json of the original
goes beside them. Compared are the logits of genai's own runs with those of transformers for a Hugging Face folder with
the same values; and what the plans for other destinations say of the codes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

import modelfmt
import test_loaders
from modelfmt.errors import ModelfmtError

GOLDEN = Path(__file__).parent / "data" / "golden" / "checkpoints"
NAMES = ("mistral", "qwen2", "qwen3", "gemma2")
TARGETS = ("gguf", "mlx", "compressed-tensors", "gptq", "awq")


def in_genai(folder: Path) -> np.ndarray:
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=128)
    generator = genai.Generator(model, params)
    generator.append_tokens(test_loaders.TOKENS.numpy().astype(np.int32))
    made: np.ndarray = np.array(generator.get_output("logits"))
    return made.reshape(-1, made.shape[-1])[-1]


def row(name: str, kind: str, folder: Path) -> str:
    source, built = folder / "source", folder / "built"
    shutil.copytree(GOLDEN / name, source, copy_function=shutil.copyfile)
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10000.0  # the builder does not find another one there
    (source / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-e", "cpu", "-p", kind]
    more = ["--extra_options", "accuracy_level=1"] if kind == "int4" else []
    subprocess.run([*command, "-o", str(built), "-c", str(folder), *more], check=True, capture_output=True)
    shutil.copy(source / "config.json", built)
    modelfmt.convert(built / "model.onnx", folder / "hf", to="huggingface")
    theirs = in_genai(built)
    ours = test_loaders.logits(test_loaders.loaded(folder / "hf"))[0, -1].numpy()
    said = [f"{np.abs(theirs - ours).max():.1e} of {np.abs(theirs).max():.1f}"]
    for target in TARGETS if kind == "int4" else ():
        try:
            planned = modelfmt.plan(built / "model.onnx", folder / f"m.{target}", to=target)
            moved = {line["verdict"] for line in planned.table() if "verdict" in line}
            said.append(f"{target} {' '.join(sorted(moved)) or 'dense'}")
        except ModelfmtError as error:
            said.append(f"{target}: {error.code}")
    return ", ".join(said)


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        for kind in ("fp32", "int4"):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    print(f"{name} {kind}: {row(name, kind, Path(folder))}", flush=True)
                except (ModelfmtError, subprocess.CalledProcessError) as error:
                    print(f"{name} {kind}: {type(error).__name__} {str(error)[:300]}", flush=True)


if __name__ == "__main__":
    main()
