"""How fast ONNX Runtime decodes with the graphs of each profile, and onnxruntime-genai with its folder.

    python benchmarks/onnx_decode.py [--folder build/bench] [--layers 4] [--types F32,int4] [--past 512]
    [--builder]

The checkpoint is that of benchmarks/made_up_llama.py. Printed: milliseconds of the prompt of `past` tokens (median of
3) and of one step behind it (median of 20, with the same cache), profile by profile; then milliseconds of a token in
onnxruntime-genai, of our folder and with --builder of its own model builder's (which needs torch and transformers).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime

import modelfmt

PROFILES = ("onnx-standard", "auto", "ort")
BUILDER = {"F32": "fp32", "int4": "int4"}
TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "golden" / "checkpoints" / "llama-spm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--types", default="F32,int4")
    parser.add_argument("--past", type=int, default=512)
    parser.add_argument("--builder", action="store_true")
    given = parser.parse_args()
    source = given.folder / f"llama-{given.layers}-layers"
    if not (source / "config.json").exists():
        script = Path(__file__).with_name("made_up_llama.py")
        more = ["--layers", str(given.layers), "--tokenizer", str(TOKENIZER)]
        subprocess.run([sys.executable, script, source, *more], check=True)
    for quant in given.types.split(","):
        for profile in PROFILES:
            out = given.folder / "decode"
            modelfmt.convert(source, out, to="onnx", quant=quant, profile=profile, overwrite=True)
            prompt, step = in_onnxruntime(out / "model.onnx", given.past)
            print(f"{quant:6} {profile:14} prompt {prompt:8.1f} ms, step {step:7.2f} ms", flush=True)
            shutil.rmtree(out)
        level = 4 if quant.startswith("int") else 0  # the builder's own
        out, more = given.folder / "genai", {"profile": "ort-genai", "accuracy_level": level}
        modelfmt.convert(source, out, to="onnx", quant=quant, overwrite=True, **more)
        if given.builder:
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-e", "cpu"]
            command += ["-p", BUILDER[quant], "-o", str(given.folder / "built"), "-c", str(given.folder / "cache")]
            subprocess.run(command, check=True, capture_output=True)
        for name in ("genai", "built")[: 1 + given.builder]:
            print(f"{quant:6} {name:14} {in_genai(given.folder / name, given.past):26.2f} ms a token", flush=True)
            shutil.rmtree(given.folder / name)


def in_onnxruntime(path: Path, past: int) -> tuple[float, float]:
    """Milliseconds of the prompt and of a step."""
    run = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in run.get_outputs()]
    cache = {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for value in run.get_inputs()
        if value.name.startswith("past")
    }
    ids = np.arange(past + 1)[None] % 30000

    def feeds(start: int, stop: int) -> dict[str, np.ndarray]:
        mask = np.ones((1, stop), np.int64)
        return {"input_ids": ids[:, start:stop], "attention_mask": mask, "position_ids": np.arange(start, stop)[None]}

    first = feeds(0, past) | cache
    prompt = timed(lambda: run.run(None, first), 3)
    found = dict(zip(names, run.run(None, first), strict=True))
    later = feeds(past, past + 1) | {name.replace("present", "past_key_values"): found[name] for name in names[1:]}
    return prompt, timed(lambda: run.run(None, later), 20)


def in_genai(folder: Path, past: int) -> float:
    """Milliseconds of a token behind a prompt."""
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=past + 32, min_length=past + 32)
    generator = genai.Generator(model, params)
    generator.append_tokens((np.arange(past)[None] % 30000).astype(np.int32))
    generator.generate_next_token()
    return timed(generator.generate_next_token, 20)


def timed(call: Callable[[], object], n: int) -> float:
    """The median of n calls, in milliseconds, after one to warm up."""
    call()
    found = []
    for _ in range(n):
        begin = perf_counter()
        call()
        found.append(1e3 * (perf_counter() - begin))
    return median(found)


if __name__ == "__main__":
    main()
