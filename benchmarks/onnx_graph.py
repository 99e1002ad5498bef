"""A checkpoint to a runnable graph of ONNX or OpenVINO, beside `cp` of its weights and onnxruntime-genai's builder.

    python benchmarks/onnx_graph.py [--folder build/bench] [--layers 16] [--runs 3] [--types F16,F32,Q4_0,Q8_0]
    [--to onnx] [--profile auto] [--builder]

The checkpoint is the made-up 0.85 B-parameter bfloat16 Llama of benchmarks/made_up_llama.py. Every time is a whole
process, to the final fsync; peak resident memory is that of the process. Each round runs everything once, in turn;
printed are medians. --builder: also `python -m onnxruntime_genai.models.builder` (needs that package, torch and
transformers) to the types that both have: F16 (-p fp16 -e cuda, which builds without a GPU), F32 and int4 (-e cpu).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from end_to_end import timed

CONVERT = """
import sys, modelfmt
_, source, out, quant, threads, profile, to = sys.argv
modelfmt.convert(source, out, to=to, quant=quant, threads=int(threads), profile=profile, overwrite=True)
"""
BUILDER = {"F16": ("fp16", "cuda"), "F32": ("fp32", "cpu"), "Q4_0": ("int4", "cpu"), "int4": ("int4", "cpu")}
TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "golden" / "checkpoints" / "llama-spm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", default="F16,F32,Q4_0,Q8_0")
    parser.add_argument("--to", choices=("onnx", "openvino"), default="onnx")
    parser.add_argument("--profile", default="auto", help="ort-genai: the same folder that the builder makes")
    parser.add_argument("--builder", action="store_true")
    given = parser.parse_args()
    source = given.folder / f"llama-{given.layers}-layers"
    if not (source / "config.json").exists():
        script = Path(__file__).with_name("made_up_llama.py")
        more = ["--layers", str(given.layers), "--tokenizer", str(TOKENIZER)]
        subprocess.run([sys.executable, script, source, *more], check=True)
    types = given.types.split(",")
    found: dict[str, list[tuple[float, int]]] = {}
    for number in range(given.runs):
        copy = given.folder / "copy"
        copied = timed(["sh", "-c", f"cp -r {source} {copy} && sync -f {copy}"])
        found.setdefault("cp and sync", []).append(copied)
        shutil.rmtree(copy)
        for name in types:
            out = given.folder / "made"
            run = [sys.executable, "-c", CONVERT, str(source), str(out), name, str(given.threads)]
            run += [given.profile, given.to]
            found.setdefault(f"modelfmt {name}", []).append(timed(run))
            shutil.rmtree(out)
            if given.builder and name in BUILDER:
                precision, provider = BUILDER[name]
                command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-p", precision]
                command += ["-e", provider, "-o", str(given.folder / "built"), "-c", str(given.folder / "cache")]
                found.setdefault(f"builder {precision}", []).append(timed(command))
                shutil.rmtree(given.folder / "built")
        print(f"round {number + 1}:", {name: round(rows[-1][0], 2) for name, rows in found.items()}, flush=True)
    for name, rows in found.items():
        seconds, memory = median(row[0] for row in rows), max(row[1] for row in rows)
        print(f"{name:16} {seconds:8.2f} s {memory / 1e6:8.0f} MB")


if __name__ == "__main__":
    main()
