"""The pre-tokenizers of llama.cpp's runtime: every name it accepts and how each splits text.

Source: llama.cpp, src/llama-vocab.cpp, October 2026 (names, flags, regular expressions per pre-tokenizer type); the
names are checked against the runtime itself in tests. A *split* is a family of names that split alike: `SPLITS` has
its regular expressions, applied one after another, each to the pieces that the one before left. `FORMS` has further
structures of tokenizer.json that mean the same, `DIFFERENCES` what the runtime does otherwise than its own definition
says, `NAMES` one row a name. The first name of a split is the one that is written, unless ignore_merges decides
otherwise.

Data only; `pre` looks things up here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DIFFERENCES", "FORMS", "GPT2", "NAMES", "SPLITS", "Name"]

_I = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"\s+(?!\S)|\s+"
_LLAMA3 = rf"{_I}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED}*{_LOWER}+@|[^\r\n\p{{L}}\p{{N}}]?{_CASED}+{_LOWER}*@"
_O200K_REST = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
_O200K = _WORDS.replace("@", f"{_I}?") + r"|\p{N}{1,3}" + _O200K_REST
_TEKKEN = _WORDS.replace("@", "") + r"|\p{N}" + _O200K_REST
_HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_PUNCT_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_V3_WORDS = rf"{_PUNCT_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_V3 = rf"{_V3_WORDS}[\r\n]*|\s*[\r\n]+|{_SPACES}"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_BLOOM_NESTED = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_ANY_PUNCT = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_CASCADE = "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"\s{1,2}(?!\S)|\s{1}"
_LINES = r"[^\n]+|[\n]+"
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|" + _HAN
)
_LATIN = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-"
    "\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8"
    "-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_KIMI_WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI_TAIL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"

SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "llama3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "qwen35": (
        rf"{_I}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}",
    ),
    "gpt-4o": (_O200K,),
    "tekken": (_TEKKEN,),
    "starcoder": (r"\p{N}", GPT2),
    "deepseek-v3": (r"\p{N}{1,3}", _HAN, _V3),
    "deepseek-llm": ("[\r\n]", _LATIN, _ANY_PUNCT, r"\s+$", _CJK, r"\p{N}+"),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "bloom": (_BLOOM,),
    "viking": (_BLOOM, r"\p{N}"),
    "jais-2": (_LLAMA3.removesuffix(_SPACES) + _CASCADE,),
    "spark2_5": (r"\p{N}{1,3}", _HAN, rf"{_V3_WORDS}|[\r\n]|{_SPACES}", r"\p{N}"),
    "youtu": (_YOUTU, _O200K.replace(r"\p{N}{1,3}", r"\p{N}")),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        GPT2,
    ),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _O200K),
    "kimi-k2": (
        rf"[\p{{Han}}]+|{_KIMI_WORD}*{_KIMI_TAIL}+{_I}?|{_KIMI_WORD}+{_KIMI_TAIL}*{_I}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}",
    ),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|" + _SPACES,
    ),
    "seed-coder": (
        rf"{_I}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}",
    ),
    "ufakzeka": (_QWEN2.removeprefix(f"{_I}|"),),
    "afmoe": (
        r"\p{AFMoE_digits}",
        "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
        "\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f"
        "\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
        _V3,
    ),
    "laguna": (_LINES, _QWEN2),
    "k2-horizon": (_LLAMA3.replace(r"?\p{L}+", r"?(?:\p{L}|\p{M}|\u200C|\u200D)+"),),
    "exaone-moe": (
        rf"{_I}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}",
    ),
    "minicpm5": (r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")),
    "lines": (_LINES,),
    "whitespace": (r"\S+",),
}
"""Regular expressions by split, in the original spelling (llama.cpp rewrites some for std::regex)."""

FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "bloom": ((_BLOOM_NESTED,),),
    "viking": ((_BLOOM_NESTED, r"\p{N}"),),
    "deepseek-llm": (("[\r\n]", _LATIN, _ANY_PUNCT, r"\s+$", _CJK, r"\p{N}"),),
    "falcon": (("<punctuation:Contiguous>", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),),
    "chameleon": (
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            "<punctuation:Isolated>",
            GPT2,
        ),
    ),
}
"""Further structures of tokenizer.json that mean a split: steps as `pre.steps` gives them, in any spelling."""


_MARKS = "the runtime splits words at combining marks (Khmer, Hindi, Thai), the tokenizer does not"
DIFFERENCES: dict[str, str] = {
    "gpt-4o": _MARKS + "; --pre granite-embed-multi-97m splits as the tokenizer does",
    "tekken": _MARKS,
    "kimi-k2": _MARKS,
    "tiny_aya": "the runtime groups digits differently where they touch letters of other scripts",
}
"""Splits whose rewritten expressions in the runtime are not equivalent to the original; measured in tests."""


class Name(NamedTuple):
    """One name that the runtime accepts. The flags are what it switches on under that name."""

    name: str
    split: str
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False
    clean_spaces: bool = True
    raw_utf8: bool = False


def _rows(split: str, *names: str, **flags: bool) -> list[Name]:
    return [Name(name, split, **flags) for name in names]


NAMES: tuple[Name, ...] = (
    *_rows(
        "gpt-2",
        "gpt-2",
        "phi-2",
        "jina-es",
        "jina-de",
        "gigachat",
        "jina-v2-es",
        "jina-v2-de",
        "a.x-4.0",
        "mellum",
        "modern-bert",
    ),
    *_rows("gpt-2", "mpt", "olmo", "jais", "exaone4"),
    *_rows("gpt-2", "trillion", "granite-docling", clean_spaces=False),
    *_rows("gpt-2", "jina-v1-en", "jina-v2-code", "roberta-bpe", add_sep=True),
    *_rows("llama3", "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", ignore_merges=True, add_bos=True),
    *_rows("llama3", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", ignore_merges=True, add_bos=True),
    *_rows("llama3", "glm4", "glm5", ignore_merges=True),
    *_rows("llama3", "dbrx", "smaug-bpe", "chatglm-bpe"),
    *_rows(
        "qwen2", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2", clean_spaces=False
    ),
    *_rows("qwen2", "stablelm2", "megrez"),
    *_rows("qwen35", "qwen35", clean_spaces=False),
    *_rows("gpt-4o", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", clean_spaces=False),
    *_rows("gpt-4o", "granite-embed-multi-97m", ignore_merges=True, clean_spaces=False),
    *_rows("tekken", "tekken", ignore_merges=True, add_bos=True, clean_spaces=False),
    *_rows("starcoder", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"),
    *_rows("starcoder", "command-r", "smollm", clean_spaces=False),
    *_rows("deepseek-v3", "deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4", clean_spaces=False),
    *_rows("deepseek-llm", "deepseek-llm", clean_spaces=False),
    *_rows("deepseek-coder", "deepseek-coder", clean_spaces=False),
    *_rows("falcon", "falcon"),
    *_rows("default", "default"),
    *_rows("bloom", "bloom", "gpt3-finnish"),
    *_rows("bloom", "poro-chat", clean_spaces=False),
    *_rows("viking", "viking", clean_spaces=False),
    *_rows("jais-2", "jais-2"),
    *_rows("spark2_5", "spark2_5", clean_spaces=False),
    *_rows("youtu", "youtu", ignore_merges=True, clean_spaces=False),
    *_rows("chameleon", "chameleon", add_bos=True, clean_spaces=False),
    *_rows("tiny_aya", "tiny_aya", "cohere2moe", clean_spaces=False),
    *_rows("kimi-k2", "kimi-k2", clean_spaces=False),
    *_rows("superbpe", "superbpe", clean_spaces=False),
    *_rows("bailingmoe", "bailingmoe", "bailingmoe2", "llada-moe", clean_spaces=False),
    *_rows("seed-coder", "seed-coder", clean_spaces=False),
    *_rows("ufakzeka", "ufakzeka", clean_spaces=False),
    *_rows("afmoe", "afmoe", clean_spaces=False),
    *_rows("laguna", "laguna", clean_spaces=False),
    *_rows("k2-horizon", "k2-horizon"),
    *_rows("exaone-moe", "exaone-moe"),
    *_rows("minicpm5", "minicpm5", ignore_merges=True),
    *_rows("lines", "gemma4", "granite-embed-multi-311m", "mmbert", raw_utf8=True),
    *_rows("lines", "sarvam-moe", clean_spaces=False, raw_utf8=True),
    *_rows("whitespace", "whitespace", raw_utf8=True),
)
