"""The schema of an architecture table: rows for tensors, params for hyper-parameters, and what must hold for both.

Tables are data about two sides, a Hugging Face checkpoint and a GGUF file; `modelfmt.archs.bind` applies them. Terms
and conditions are strings of `modelfmt.archs.terms`, operations are `modelfmt.archs.specs`. How to write one:
docs/architectures.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from modelfmt.archs.specs import Spec
from modelfmt.archs.terms import Scope, evaluate

__all__ = [
    "Architecture",
    "Filled",
    "Ignore",
    "Listed",
    "Loses",
    "Nextn",
    "Param",
    "Refuses",
    "Rope",
    "Row",
    "Scalar",
    "Window",
]

REQUIRED: Any = ...


class Row(msgspec.Struct, frozen=True):
    """One tensor: Hugging Face template(s), GGUF template, shape in the GGUF file (row-major, terms), operations.

    {i} is the layer, {e} the expert (with `Stacked`) or the shard (with `Sharded`). source: several templates are
    spellings of the same tensor, the first is written in the other direction. Rows with one target are layouts of the
    same thing: the first whose sources are there is taken. bias: whether a `.bias` belongs to the `.weight`. when: a
    condition. optional: may be absent. tied_to: the source of which this one may be a copy that the checkpoint leaves
    out. keep: an encoding that quantization must not change. layers: the param that says how many layers there are.
    start: a term, the layer of the file that is the source's first (below 0 where a tensor without a layer in the file
    has one in the checkpoint). unused: loaded by llama.cpp's graph, but without effect; not made on the way back.
    """

    source: str | tuple[str, ...]
    target: str
    shape: tuple[str, ...]
    ops: tuple[Spec, ...] = ()
    bias: Literal["none", "maybe", "required"] = "none"
    when: str = ""
    optional: bool = False
    tied_to: str = ""
    keep: str | None = None
    layers: str = "n_layer"
    start: str = ""
    unused: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The source templates, as a tuple also where there is one."""
        return (self.source,) if isinstance(self.source, str) else self.source


class Scalar(msgspec.Struct, frozen=True):
    """A tensor of one value in each layer, which the file has among its metadata: a list of numbers, one for each
    layer.

    source: Hugging Face template. key: the whole GGUF key. shape: of the tensor where it comes back, () or (1,); either
    is read. default: for a checkpoint without the tensor.
    """

    source: str
    key: str
    shape: tuple[int, ...] = (1,)
    default: float | None = None


class Listed(msgspec.Struct, frozen=True):
    """A tensor of whole numbers of 64 bits, which the file has among its metadata as a list.

    source: Hugging Face template; layer: a term, the number for its {i}. key: the whole GGUF key; type: of its numbers.
    size: how many, a term. low, below: what the numbers are from, and a term that none reaches. first: the param that
    is the first number, where there is only the file.
    """

    source: str
    key: str
    size: str
    type: Literal["UINT32", "UINT64"] = "UINT64"
    layer: str = "0"
    low: int = 0
    below: str = ""
    first: str = ""

    def named(self, scope: Scope) -> str:
        """The tensor of the checkpoint."""
        return self.source.replace("{i}", str(evaluate(self.layer, scope)))

    def shape(self, scope: Scope) -> tuple[int, ...]:
        """Its shape: one axis."""
        return (evaluate(self.size, scope),)


class Filled(msgspec.Struct, frozen=True):
    """A tensor of the file in each layer, of `size` (a term) times the same value: that of a param, or 1. No tensor of
    the checkpoint is behind it."""

    target: str
    size: str
    param: str = ""


class Param(msgspec.Struct, frozen=True):
    """One hyper-parameter: where config.json has it, and the GGUF key (behind the architecture's name) it goes to.

    From config.json. config: names in order of preference, dotted inside an object (`*` for its entries, which must
    agree) or, a number, a list; the first is written in the other direction. default: for an absent key; `...` where
    there must be one. derive: a term, for a null or the word auto, and for an absent key without a default. A null
    without a term is None where nullable, else as good as absent, as an empty list is, unless layers are listed by
    number (codes): then it is none. cases: (condition, term) pairs; the first that holds gives the value, whatever
    config.json says. each: the same in each layer, where neither side says it: the value is a list. codes: (word in
    config.json, number in the file) pairs. low, high: bounds of integers (floats must be positive, or 0 where low is);
    negative: a float below 0. allowed: the values that the graphs of llama.cpp can express. counted: of a list, a
    string or an object, which is not written alone, the number of its entries. per_layer: may be a list with one
    integer per layer; with codes a list of words, a string of letters, or the numbers of the layers whose code is 1
    (numbers: so it is written; first: the number of the first layer). uniform: may be a list with one integer per
    layer, which must all be the same. cut: such a list may be longer, what is behind the layers does not count.
    leading: may be a list of these two values, all of the first before those of the second; then it is their number.
    foremost: may be a list of which the first entry counts. listed: the file has the numbers of the layers whose entry
    is 1.

    To the file and from it. key: empty where GGUF does not hold it. omit: the value that is not written, and that a
    file without the key has; None never is; text names a param before this one whose value it is, which an absent key
    of config.json without a default has, too. implied: (condition, term) pairs over all params, of each layer where
    per_layer: what a file that has no key for it says all the same, by its other keys. tensor: a file tells by the
    presence of this one; with {i} by the number of layers that have it; tensors: the same for each layer.
    """

    name: str
    config: str | tuple[str, ...] = ()
    key: str = ""
    type: Literal["UINT32", "FLOAT32", "BOOL", "STRING"] = "UINT32"
    default: Any = REQUIRED
    derive: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    each: tuple[tuple[str, str], ...] = ()
    codes: tuple[tuple[str | bool, int], ...] = ()
    tensor: str = ""
    tensors: str = ""
    low: int = 1
    high: int = 2**31 - 1
    allowed: tuple[Any, ...] = ()
    omit: Any = None
    nullable: bool = False
    per_layer: bool = False
    counted: bool = False
    negative: bool = False
    uniform: bool = False
    cut: bool = False
    leading: tuple[Any, ...] = ()
    numbers: bool = False
    listed: bool = False
    foremost: bool = False
    first: int = 0
    implied: tuple[tuple[str, str], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The names in config.json, as a tuple also where there is one."""
        return (self.config,) if isinstance(self.config, str) else self.config


class Rope(msgspec.Struct, frozen=True):
    """Rotary positions. style: pairs ("norm") or halves ("neox"); GGUF does not say, each graph knows.

    theta: where config.json has none. implied: a theta that is not written. local_theta: that of sliding-window layers,
    which turn without scaling, where config.json has none ("same": that of the others). kinds: scalings that the graph
    supports. dimension: write rope.dimension_count. partial: a part of each head may turn; which, where config.json
    does not say; local_partial: the same of sliding-window layers, where it is their own; turns: which part does in
    full layers of files that do not say it. alpha: dynamic scaling with an `alpha` is a theta of its own. sections: how
    many frequencies turn by each of several positions (in text all are the same), where config.json does not say; none:
    one position only.
    aliases: other names of a kind. names_longrope: write the scaling type of longrope (llama.cpp's phi3 goes without).
    alike: config.json may have sections that the graph knows nothing of. whole: the size of a head that
    partial_rotary_factor is of, a term, where head_size is what turns. settings: where config.json has none.
    log_multiplier: yarn's scale is that of all scores (mscale_all_dim), and this times it is written. labels: what
    config.json calls the settings of full and of sliding-window layers; keys: where the file has the theta of each;
    thetas: the names of both in config.json, where they stand beside the settings. unscaled: the graph does not scale
    what yarn turns. betas: the graph reads beta_fast and beta_slow from the file.
    """

    style: Literal["norm", "neox"]
    theta: float = 10000.0
    implied: float | None = None
    local_theta: float | Literal["same"] | None = None
    kinds: tuple[str, ...] = ("default", "linear", "dynamic", "yarn")
    dimension: bool = False
    partial: float | None = None
    whole: str = ""
    local_partial: float | None = None
    turns: float | None = None
    alpha: bool = False
    sections: tuple[int, ...] = ()
    alike: bool = False
    aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    names_longrope: bool = True
    settings: Mapping[str, Any] = msgspec.field(default_factory=dict)
    log_multiplier: float = 0.0
    labels: tuple[str, str] = ("full_attention", "sliding_attention")
    keys: tuple[str, str] = ("rope.freq_base", "rope.freq_base_swa")
    thetas: tuple[str, ...] = ()
    unscaled: bool = False
    betas: bool = False


class Window(msgspec.Struct, frozen=True):
    """Sliding-window layers between full ones: all but each `period`-th slide, unless layer_types says otherwise.

    size: where config.json has none. config: its name there. full_first: each period begins with its full layer.
    required: the graph slides whatever the file says, so that the file must say it. stated: the file always says which
    layers slide, as the graph has no pattern of its own.
    """

    period: int
    size: int | None = None
    config: str = "sliding_window"
    full_first: bool = False
    required: bool = False
    stated: bool = False


class Ignore(msgspec.Struct, frozen=True):
    """Source tensors that have no place in the file, and why. pattern: of a shell; {n_layer} is the number of layers,
    and so the first one beyond them, or one of those behind it. loss: they carried information."""

    pattern: str
    reason: str
    when: str = ""
    loss: bool = False


class Nextn(msgspec.Struct, frozen=True):
    """Layers behind the last one, each of which predicts a further token (MTP): the file has them as further layers,
    llama.cpp computes them for speculative decoding only. A param n_nextn says how many there are.

    rows: what such a layer has beside a layer's own rows; the first tells that it is there. prefix: how a checkpoint's
    names begin for model.layers.{i}. (which may be the same); {k} is its number among them. entries: of params that
    are lists, the entry of such a layer, where it is not that of the last layer before.
    """

    rows: tuple[Row, ...]
    prefix: str = "model.layers.{i}."
    entries: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Refuses(msgspec.Struct, frozen=True):
    """A condition under which the file would be wrong, so that none is made."""

    when: str
    detail: str


class Loses(msgspec.Struct, frozen=True):
    """A condition under which something of the source is not expressed. kind: see `modelfmt.report.Loss`."""

    when: str
    kind: str
    subject: str
    detail: str


class Architecture(msgspec.Struct, frozen=True):
    """One architecture on both sides.

    gguf: its name there, empty for a table that is for compute graphs alone. hf: class names. model_type: of
    config.json. prefixes, suffixes: pairs (as in the rows, as some checkpoints have it). graph: what a compute graph
    needs and GGUF leaves unsaid. pooled: may carry the pooling of sentence-transformers; dense: and two Dense modules,
    with rows for them and a param that is the width between. towers: sections of config.json are of equal rank.
    variants: (condition, table) pairs: where the condition holds in a layer, that is the table of the checkpoint.
    writes: the class and the model type of a config.json that is made from a file, where they are not the first ones;
    inside: the model type of the section text_config that has all else there, of models without a class for text alone.
    unadapted: tensors, without blk.{i}, for which the graph looks for no adapter. within: the multimodal class that the
    language model of this table is inside of. nextn: layers that predict further tokens.
    """

    gguf: str
    hf: tuple[str, ...]
    model_type: tuple[str, ...]
    rows: tuple[Row, ...]
    params: tuple[Param, ...]
    scalars: tuple[Scalar, ...] = ()
    lists: tuple[Listed, ...] = ()
    filled: tuple[Filled, ...] = ()
    rope: Rope | None = None
    window: Window | None = None
    pooled: bool = False
    dense: bool = False
    towers: bool = False
    ignores: tuple[Ignore, ...] = ()
    refuses: tuple[Refuses, ...] = ()
    loses: tuple[Loses, ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
    suffixes: tuple[tuple[str, str], ...] = ()
    graph: Mapping[str, Any] = msgspec.field(default_factory=dict)
    variants: tuple[tuple[str, Architecture], ...] = ()
    writes: tuple[str, str] | None = None
    inside: str = ""
    unadapted: tuple[str, ...] = ()
    nextn: Nextn | None = None
    within: str = ""

    def derive(
        self,
        *,
        rows: tuple[Row, ...] = (),
        params: tuple[Param, ...] = (),
        without: tuple[str, ...] = (),
        graph: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Architecture:
        """This table with changes. rows replace those of the same target, params those of the same name, others follow;
        without: targets and param names that fall away; graph is merged; ignores, refuses and loses are appended to:
        those of this table then speak of the graph that `gguf` names.

        >>> base = Architecture("a", (), (), (), (Param("n_layer", "num_layers", "block_count"),))
        >>> base.derive(gguf="b", without=("n_layer",)).params
        ()
        """
        own, new = (f"llama.cpp's {gguf} graph" for gguf in (self.gguf, changes.get("gguf", self.gguf)))
        for name in ("refuses", "loses"):
            renamed = (replace(rule, detail=rule.detail.replace(own, new)) for rule in getattr(self, name))
            changes[name] = (*renamed, *changes.get(name, ()))
        changes["ignores"] = self.ignores + changes.get("ignores", ())
        return replace(
            self,
            rows=_merged(self.rows, rows, "target", without),
            params=_merged(self.params, params, "name", without),
            graph={**self.graph, **(graph or {})},
            **changes,
        )


def _merged(old: tuple[Any, ...], new: tuple[Any, ...], key: str, without: tuple[str, ...]) -> tuple[Any, ...]:
    merged: dict[str, list[Any]] = {}
    for row in old:
        if getattr(row, key) not in without:
            merged.setdefault(getattr(row, key), []).append(row)
    for row in new:
        merged[getattr(row, key)] = []
    for row in new:
        merged[getattr(row, key)].append(row)
    return tuple(row for rows in merged.values() for row in rows)
