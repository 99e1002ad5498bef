"""Options that several commands share, and how they become keywords of `modelfmt.plan` and `modelfmt.run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from modelfmt.cli.progress import MODES
from modelfmt.errors import UsageError

__all__ = ["plan_keywords", "plan_options", "run_options"]

Decorated = Callable[..., Any]

_SAME_NAME = (
    *("to", "imatrix", "output_tensor_type", "token_embedding_type", "pure", "intermediate", "rounding", "pre"),
    *(
        "target_bpw",
        "split_size",
        "split_tensors",
        "alignment",
        "allow_requantize",
        "carry",
        "nextn",
        "profile",
        "accuracy_level",
        "external",
        "strict",
        "stats",
        "transcode",
    ),
)

_PLAN = (
    click.option("--quant", "-t", multiple=True, metavar="TYPE", help="File type (see `modelfmt types --files`); repeat it for several, the source is read once. For ONNX also int4, uint4, int8, uint8, in blocks of 32 or as in int4:128; of a scheme such as --to awq, docs/transcoding.md. Default: from the destination's name, else auto."),
    click.option("--recipe", multiple=True, metavar="FILE", help="A recipe of your own, TOML or JSON (docs/recipes.md), one more type to make; repeat it for several."),
    click.option("--target-bpw", type=float, metavar="BITS", help="Bits per weight that the whole file may have at most: each tensor's type is chosen by measuring a sample of its rows, the one case in which planning reads weights. With --recipe, that recipe's target."),
    click.option("--to", type=click.Choice(["gguf", "huggingface", "onnx", "openvino", "pytorch", "safetensors", "mlx", "compressed-tensors", "gptq", "awq", "fp8", "bitsandbytes", "mxfp4"]), help="Destination format. Default: from its name."),
    click.option("--adapter", multiple=True, metavar="PATH[=WEIGHT]", help="LoRA adapter (a folder of PEFT) to merge into the model, times WEIGHT; repeat it for several (docs/lora.md)."),
    click.option("--base", metavar="PATH", help="The model that SOURCE, a LoRA adapter, is for; it becomes a GGUF adapter (docs/lora.md)."),
    click.option("--imatrix", metavar="FILE", help="Importance matrix, .dat or GGUF."),
    click.option("--tensor-type", "tensor_type", multiple=True, metavar="REGEX=TYPE", help="Type of the tensors whose name the expression finds; the first that matches wins."),
    click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight."),
    click.option("--token-embedding-type", metavar="TYPE", help="Type of token_embd.weight."),
    click.option("--pure", is_flag=True, help="No mixture: every tensor in the file type's own type."),
    click.option("--intermediate", default="auto", metavar="TYPE", help="Dense type that values pass through first, as in llama.cpp's two steps: auto, F32 (none), F16, BF16."),
    click.option("--rounding", default="ggml", metavar="MODE", help="How values become blocks: ggml (llama.cpp's bytes) or best (a search for less error in the same types; slower)."),
    click.option("--pre", metavar="NAME", help="Pre-tokenizer, where it cannot be identified."),
    click.option("--metadata", "metadata", multiple=True, metavar="KEY=VALUE", help="Add or replace a metadata key; VALUE is JSON or text, empty removes the key."),
    click.option("--split-size", metavar="SIZE", help="Largest size of a file, such as 4G; more become shards."),
    click.option("--split-tensors", type=click.IntRange(min=1), metavar="N", help="Largest number of tensors in a file."),
    click.option("--alignment", type=click.IntRange(min=8), metavar="BYTES", help="Alignment of GGUF tensors, a power of two. Default: the source's, else 32."),
    click.option("--allow-requantize", is_flag=True, help="Allow quantized tensors to be quantized again."),
    click.option("--transcode", default="auto", metavar="POLICY", help="What may become of quantized tensors where no type is asked for: exact, near:BOUND (the smallest type within it), any (with --allow-requantize), auto (exact, else near). See docs/transcoding.md."),
    click.option("--carry/--no-carry", default=True, help="GGUF from a checkpoint: write keys that make the way back exact; without, the keys are those of llama.cpp's converter. Default: --carry."),
    click.option("--nextn/--no-nextn", default=True, help="GGUF from a checkpoint: with the layers that predict further tokens (MTP), which llama.cpp drafts with. Default: --nextn."),
    click.option("--external", default="auto", metavar="WHERE", help="Where an ONNX model's weights go: auto (inside it, beside it from 2 GiB on), always or never beside it, or safetensors: in the files of the checkpoint, which lie in the same folder and are not copied."),
    click.option("--profile", default="auto", metavar="NAME", help="Operators of an ONNX graph: onnx-standard (none of another domain), ort (ONNX Runtime's fused ones), ort-genai (the folder of onnxruntime-genai) or auto (standard ones, MatMulNBits for quantized weights). See docs/onnx.md."),
    click.option("--accuracy-level", type=click.IntRange(0, 4), default=0, metavar="N", help="Of products with quantized weights in ONNX: 0 (activations stay floats) or 4 (ONNX Runtime may round them to 8 bits, which is faster)."),
    click.option("--strict", is_flag=True, help="Any loss is an error (exit 7)."),
    click.option("--stats", is_flag=True, help="Measure the error of each tensor on the way (slower)."),
)  # fmt: skip

_RUN = (
    click.option("--threads", type=click.IntRange(min=1), envvar="MODELFMT_THREADS", metavar="N", help="Kernels at work at once. Default: the processors there are."),
    click.option("--memory", envvar="MODELFMT_MEMORY", metavar="SIZE", help="Bytes in flight, such as 512M. Default: 1Gi."),
    click.option("--progress", type=click.Choice(MODES), default="auto", envvar="MODELFMT_PROGRESS", help="How progress is shown, on stderr."),
    click.option("--quiet", "-q", is_flag=True, help="No progress and no summary."),
)  # fmt: skip


def plan_options(function: Decorated) -> Decorated:
    """Adds what `modelfmt.plan` understands."""
    return _all(_PLAN, function)


def run_options(function: Decorated) -> Decorated:
    """Adds what `modelfmt.run` understands."""
    return _all(_RUN, function)


def _all(options: tuple[Callable[[Decorated], Decorated], ...], function: Decorated) -> Decorated:
    for option in reversed(options):
        function = option(function)
    return function


def plan_keywords(given: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `modelfmt.plan` from the options of `plan_options`, which are taken out of `given`."""
    pairs = []
    for text in given.pop("tensor_type"):
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern:
            raise UsageError("no pattern and type", code="tensor-type", found=text, allowed="REGEX=TYPE")
        pairs.append((pattern, name))
    metadata = {}
    for text in given.pop("metadata"):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError("no key and value", code="metadata", found=text, allowed="KEY=VALUE")
        metadata[key] = _value(value)
    adapters = [_adapter(text) for text in given.pop("adapter")]
    lists = {
        "adapter": adapters or None,
        "base": given.pop("base"),
        "quant": given.pop("quant") or None,
        "recipes": given.pop("recipe") or None,
    }
    keywords = {name: given.pop(name) for name in _SAME_NAME}
    return keywords | lists | {"tensor_types": pairs, "metadata": metadata}


def _adapter(text: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT."""
    path, equals, weight = text.rpartition("=")
    try:
        return (path, float(weight)) if equals and path else (text, 1.0)
    except ValueError:
        return text, 1.0


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, bool | int | float | str) else text
