"""The `general.*` keys of a GGUF file made from a checkpoint: who made it, what it is called, what it came from.

Keys, types, order and guesses are those of llama.cpp's converter (gguf-py: `metadata.py`, `GGUFWriter`): a fact comes
from the model card, else from `_name_or_path` in config.json, else from the folder's name, which is taken apart into
basename, size label, finetune and version. Where llama.cpp fails on a value, the value is written as text or left out,
and noted. Not here: `general.architecture`, `general.file_type`, `general.quantization_version`, `general.alignment`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from modelfmt.report import Note

__all__ = [
    "SAMPLING",
    "ModelId",
    "ParameterCount",
    "Row",
    "count_parameters",
    "metadata",
    "size_label",
    "split_model_id",
    "title",
]

Row = tuple[str, str, Any]
"""Key, GGUF type, value."""

SAMPLING = (  # key below general.sampling, name in generation_config.json, GGUF type
    ("sequence", "sequence", "STRING"),
    ("top_k", "top_k", "INT32"),
    ("top_p", "top_p", "FLOAT32"),
    ("min_p", "min_p", "FLOAT32"),
    ("xtc_probability", "xtc_probability", "FLOAT32"),
    ("xtc_threshold", "xtc_threshold", "FLOAT32"),
    ("temp", "temperature", "FLOAT32"),
    ("penalty_last_n", "penalty_last_n", "INT32"),
    ("penalty_repeat", "penalty_repeat", "FLOAT32"),
    ("mirostat", "mirostat", "INT32"),
    ("mirostat_tau", "mirostat_tau", "FLOAT32"),
    ("mirostat_eta", "mirostat_eta", "FLOAT32"),
)
_FACTS: dict[str, tuple[str, ...]] = {  # key below general, in the order written -> names in the card, first one wins
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
_ANCESTRY = (  # key below general -> names in the card, first one that is there wins
    ("base_model", ("base_model", "base_models", "base_model_sources")),
    ("dataset", ("datasets", "dataset", "dataset_sources")),
)
_ANCESTOR_FACTS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_LISTS = (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language")))

_SCALES = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-math.inf, 1e-3, "K"))
_MULTIPLES = " KMBT"  # the power of 1000 that a size label's last letter stands for

_FLOAT32_END = 2.0**128 - 2.0**103  # from here on rounding to float32 gives infinity

_HUB = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")
_NO_TITLE = re.compile(r"v\d+(?:\.\d+)*|\d.*")
_VERSION = re.compile(r"(?:v|iter)?\d+(?:\.\d+)*", re.IGNORECASE)
_QUANT_TYPE = re.compile(r"i?q\d(?:_\w)*|b?fp?(?:16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(?:(?:A|\d+x)?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_ACTIVE_SIZE = re.compile(r"A\d+(?:[._]\d+)?[KMBT]\d?", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)


class ParameterCount(NamedTuple):
    """Numbers of weights. total: negative for an adapter. expert: one expert of each layer. expert_count: 0 if dense.

    Source: gguf-py, GGUFWriter.get_total_parameter_count.
    """

    total: int
    shared: int
    expert: int
    expert_count: int


class ModelId(msgspec.Struct, frozen=True):
    """What a hub id or a folder's name says about a model."""

    name: str
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


def metadata(
    *,
    folder_name: str,
    config: Mapping[str, Any],
    card: Mapping[str, Any],
    generation_config: Mapping[str, Any] | None,
    n_params: ParameterCount,
    notes: list[Note] | None = None,
) -> list[Row]:
    """The `general.*` keys as (key, GGUF type, value), in llama.cpp's order, `general.type` first.

    config: config.json. card: what `model_card.parse` read. generation_config: generation_config.json. notes: gets what
    was left out or changed. Types: STRING, UINT32, INT32, FLOAT32, ARRAY:STRING. Raises nothing.

    >>> count = ParameterCount(total=8_030_261_248, shared=8_030_261_248, expert=0, expert_count=0)
    >>> for row in metadata(folder_name="llama-3-8b-it", config={}, card={}, generation_config=None, n_params=count):
    ...     print(*row)
    general.type STRING model
    general.name STRING Llama 3 8b It
    general.finetune STRING it
    general.basename STRING llama-3
    general.size_label STRING 8B
    """
    reader = _Checked([] if notes is None else notes)
    facts = {key: reader.first(card, names) for key, names in _FACTS.items()}
    hub_name = config.get("_name_or_path")
    if isinstance(hub_name, str) and hub_name.count("/") <= 1:  # more slashes: a path on somebody's disk
        _complete(facts, split_model_id(hub_name, n_params.total))
    _complete(facts, split_model_id(folder_name, n_params.total))
    if facts["size_label"] is None and n_params.total > 0:
        facts["size_label"] = size_label(n_params)

    out: list[Row] = [("type", "STRING", "model")]
    out += reader.sampling(generation_config or {})
    out += [(key, "STRING", value) for key, value in facts.items()]
    for kind, names in _ANCESTRY:
        out += reader.ancestors(kind, card, names, n_params.total)
    out += [(key, "ARRAY:STRING", reader.texts(card, names)) for key, names in _LISTS]
    written = [(key, kind, value) for key, kind, value in out if value not in ("", None, [])]  # GGUFWriter skips these
    return [(f"general.{key}", kind, reader.encodable(key, value)) for key, kind, value in written]


def count_parameters(tensors: Iterable[tuple[str, Sequence[int]]]) -> ParameterCount:
    """Counts the tensors of a GGUF file: names as in the file, row-major shapes.

    Experts are stacked in tensors named `*_exps.*` of three or more dimensions; where layers differ in their number of
    experts, the count is the mean, rounded down.

    >>> count_parameters([("output.weight", (512, 64)), ("blk.0.ffn_up_exps.weight", (4, 96, 64))])
    ParameterCount(total=57344, shared=32768, expert=6144, expert_count=4)
    """
    total = shared = expert = n_experts = n_expert_tensors = 0
    for name, shape in tensors:
        size = math.prod(shape)
        total += size
        count = shape[-2 if ".bias" in name else -3] if "_exps." in name and len(shape) >= 3 else 0
        if count:
            expert += size // count
            n_experts += count
            n_expert_tensors += 1
        else:
            shared += size
    return ParameterCount(total, shared, expert, n_experts // n_expert_tensors if n_expert_tensors else 0)


def size_label(n_params: ParameterCount) -> str:
    """The size for people: two digits or more, experts as `COUNTxSIZE` with the shared weights in SIZE.

    >>> size_label(ParameterCount(46_702_792_704, 1_605_636_096, 5_637_144_576, 8))
    '8x7.2B'
    """
    if n_params.expert_count > 0:
        return f"{n_params.expert_count}x{_rounded(abs(n_params.shared) + abs(n_params.expert))}"
    return _rounded(abs(n_params.total))


def title(text: str) -> str:
    """A model's name from its id: words of small letters get a capital, except versions.

    >>> title("Meta-Llama-3-8b-instruct-v1")
    'Meta Llama 3 8b Instruct v1'
    """
    words = text.replace("-", " ").split()
    return " ".join(word.title() if word.islower() and not _NO_TITLE.fullmatch(word) else word for word in words)


def split_model_id(text: str, n_params: int = 0) -> ModelId:
    """Takes a hub id or a folder's name apart. n_params: 0 if unknown, negative for an adapter.

    A size that is far from n_params is not a size label but part of the finetune (a context length, training tokens).

    >>> split_model_id("microsoft/Phi-3-mini-4k-instruct", 4 * 10**9)  # doctest: +NORMALIZE_WHITESPACE
    ModelId(name='Phi-3-mini-4k-instruct', organization='microsoft', basename='Phi-3', finetune='4k-instruct',
            version=None, size_label='mini')
    """
    if " " in text:  # a sentence, not an id
        return ModelId(text)
    organization, slash, name = text.partition("/")
    if not slash:
        organization, name = "", text
    by_role: dict[str, list[str]] = {"basename": [], "finetune": [], "version": [], "size_label": [], "type": []}
    for word, role in _roles([word for word in name.split("-") if word], n_params):
        by_role[role].append(word)
    by_role["size_label"] = list(dict.fromkeys(by_role["size_label"]))
    parts = {role: "-".join(words) or None for role, words in by_role.items() if role != "type"}
    if not (parts["size_label"] or parts["finetune"] or parts["version"]):
        parts["basename"] = None  # one word for everything says nothing
    return ModelId(name, organization if slash and not organization.startswith(".") else None, **parts)


# -- names ------------------------------------------------------------------------------------------------------------


def _roles(words: list[str], n_params: int) -> list[tuple[str, str]]:
    """Each word of a name, respelled, with what it tells: basename, finetune, version, size_label or type."""
    found = [_word_role(words, i, n_params) for i in range(len(words))]
    if any(role == "size_label" and any(c.isdecimal() for c in word) for word, role in found):
        found = [(word, "" if role == "size_label" and word.isalpha() else role) for word, role in found]
    # the basename: words of no role and versions, from the start on; where that is all, without the last versions
    in_base = [role == "version" or (not role and word[0].isalpha()) for word, role in found]
    n_base = in_base.index(False) if False in in_base else len(found)
    if n_base == len(found):
        while n_base and found[n_base - 1][1] == "version":
            n_base -= 1
    return [(word, "basename" if i < n_base else role or "finetune") for i, (word, role) in enumerate(found)]


def _word_role(words: list[str], i: int, n_params: int) -> tuple[str, str]:
    word = words[i]
    if _VERSION.fullmatch(word):
        return word, "version"
    if _QUANT_TYPE.fullmatch(word):
        return word, "type"
    if i > 0 and _SIZE.fullmatch(word):
        word = _respelled_size(word)
        if n_params and _is_no_size(word, words[i + 1] if i + 1 < len(words) else "", n_params):
            return word[:-1] + word[-1].lower(), "finetune"
        return word, "size_label"
    if i > 0 and _FINETUNE.fullmatch(word):
        return word, "type" if n_params < 0 and word.lower() == "lora" else "finetune"
    return word, ""


def _respelled_size(word: str) -> str:
    """1_6b as 1.6B, 7b1 as 7.1B."""
    word = word.replace("_", ".")
    if word[-1].isdecimal():
        word = f"{word[:-2]}.{word[-1]}{word[-2]}"
    return word[:-1] + word[-1].upper() if word[-2].isdecimal() and word[-1] in "kmbt" else word


def _is_no_size(word: str, following: str, n_params: int) -> bool:
    """Whether a size is too far from the number of weights to be one. An adapter may have far fewer weights."""
    try:
        size = _size(word)
    except ValueError:  # 8x7B, A3B, mini
        return False
    margin = 7 * abs(n_params) // 8
    active = _respelled_size(following) if _ACTIVE_SIZE.fullmatch(following) else ""
    if _ACTIVE_SIZE.fullmatch(active) and abs(_size(active[1:]) - abs(n_params)) <= margin:
        return False  # 26B of 26B-A4B, where the weights that are always used have been counted
    return size < abs(n_params) // 8 if n_params < 0 else abs(size - n_params) > margin


def _size(label: str) -> float:
    return float(label[:-1]) * float(1000 ** _MULTIPLES.find(label[-1]))


def _rounded(n_params: int) -> str:
    scale, letter = next((scale, letter) for above, scale, letter in _SCALES if n_params > above)
    n_digits = len(str(round(n_params * scale)).lstrip("0"))
    return f"{n_params * scale:.{max(2 - n_digits, 0)}f}{letter}"


def _complete(facts: dict[str, str | None], model_id: ModelId) -> None:
    """Fills what is not known yet from a name. Empty counts as known, as in llama.cpp."""
    found = {
        "name": title(model_id.name),
        "organization": None if model_id.organization is None else title(model_id.organization),
        "basename": model_id.basename,
        "finetune": model_id.finetune,
        "version": model_id.version,
        "size_label": model_id.size_label,
    }
    for key, value in found.items():
        if facts[key] is None:
            facts[key] = value


# -- values from the card and generation_config.json ---------------------------------------------------------------


class _Checked(msgspec.Struct):
    """Takes values from files that may hold anything; what does not fit is noted."""

    notes: list[Note]

    def note(self, subject: str, detail: str) -> None:
        self.notes.append(Note(subject, detail))

    def text(self, name: str, value: object) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return str(value)
        self.note(f"model card: {name}", "not text; left out")
        return None

    def first(self, card: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
        for name in names:
            value = card.get(name)
            if name == "license" and isinstance(value, list):
                value = ",".join(self.texts(card, (name,)))
            value = self.text(name, value)
            if value is not None:
                return value
        return None

    def texts(self, card: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
        """The texts of all those entries, each one text or a list."""
        out: list[str] = []
        for name in names:
            value = card.get(name)
            for item in value if isinstance(value, list) else [] if value is None else [value]:
                text = self.text(name, item)
                if text is not None:
                    out.append(text)
                elif item is None:
                    self.note(f"model card: {name}", "an empty item; left out")
        return out

    def ancestors(self, kind: str, card: Mapping[str, Any], names: tuple[str, ...], n_params: int) -> Iterator[Row]:
        """Base models or datasets: ids, URLs, or mappings that name the facts themselves."""
        name = next((name for name in names if name in card), None)
        if name is None:
            return
        value = card[name]
        items = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        if value is not None and not isinstance(value, str | list):
            self.note(f"model card: {name}", "neither text nor a list; left out")
        yield f"{kind}.count", "UINT32", len(items)
        for i, item in enumerate(items):
            if isinstance(item, Mapping):
                facts: Mapping[str, Any] = item
            elif isinstance(item, str):
                facts = _ancestor(item, n_params)
            else:
                self.note(f"model card: {name}", f"item {i} is neither text nor a mapping; counted, without facts")
                continue
            for fact in _ANCESTOR_FACTS:
                yield f"{kind}.{i}.{fact}", "STRING", self.text(f"{name}: {fact}", facts.get(fact))

    def sampling(self, generation_config: Mapping[str, Any]) -> Iterator[Row]:
        for key, name, kind in SAMPLING:
            value = generation_config.get(name)
            if value is None:
                continue
            fitted = _FIT[kind](value)
            if fitted is None:
                self.note(f"generation_config.json: {name}", f"{value!r:.40} does not fit {kind}; left out")
            yield f"sampling.{key}", kind, fitted

    def encodable(self, key: str, value: Any) -> Any:
        """The value without what UTF-8 cannot say: JSON and file names can hold halves of surrogate pairs."""
        if isinstance(value, list):
            return [self.encodable(key, item) for item in value]
        if not isinstance(value, str):
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            self.note(f"general.{key}", "characters that UTF-8 cannot hold are replaced by ?")
            return value.encode(errors="replace").decode()
        return value


def _ancestor(text: str, n_params: int) -> dict[str, str | None]:
    """What an id or a URL says about a base model or a dataset."""
    is_url = text.startswith(("http://", "https://", "ssh://"))
    on_hub = _HUB.fullmatch(text) if is_url else None
    if is_url and on_hub is None:
        return {"repo_url": text}
    model_id = split_model_id(on_hub[1] if on_hub else text, n_params)
    facts = {"name": title(model_id.name), "version": model_id.version, "repo_url": text if is_url else None}
    if model_id.organization is not None:
        facts["organization"] = title(model_id.organization)
        facts["repo_url"] = facts["repo_url"] or f"https://huggingface.co/{model_id.organization}/{model_id.name}"
    return facts


def _fit_float(value: object) -> float | None:
    """None where float32 cannot hold it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _FLOAT32_END:
        return None
    return float(value)


def _fit_int(value: object) -> int | None:
    number = _fit_float(value)
    return int(number) if number is not None and number.is_integer() and -(2**31) <= number < 2**31 else None


_FIT = {"STRING": lambda value: value if isinstance(value, str) else None, "FLOAT32": _fit_float, "INT32": _fit_int}
