"""A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors (or .bin), and what it changes.

Source: PEFT 0.21, utils/save_and_load.py (names), tuners/lora/layer.py, variants.py and dora.py (mathematics). W
changes by scale * (B @ A), scale = alpha / r (rsLoRA: alpha / sqrt(r)), r and alpha by module where patterns say so.
DoRA gives each row of the sum a length of its own. What is not LoRA, and what of LoRA cannot be expressed, is refused
by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelfmt.archs.lowrank import Changes, Pair, Vector
from modelfmt.checkpoints import peft_options
from modelfmt.errors import CorruptFile, LimitExceeded, SourceMissing, UnsupportedError
from modelfmt.formats import pytorch, safetensors
from modelfmt.ir.model import Model
from modelfmt.ir.ops import Expression, Finite, Reader, Reshape, Strided
from modelfmt.ir.tensor import Tensor
from modelfmt.storage import strict_json
from modelfmt.storage.files import Files
from modelfmt.storage.paths import contained

__all__ = ["CONFIG", "Adapter", "Base", "is_adapter", "read"]

CONFIG = "adapter_config.json"
CONFIG_LIMIT = 8 << 20
RANK_LIMIT = 4096
_WEIGHTS = (("adapter_model.safetensors", safetensors.read), ("adapter_model.bin", pytorch.read))
_ROOT = "base_model.model."
_PART = re.compile(
    r"(?P<module>.*)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?P<end>\.weight|\.bias)?"
)
_TOKENS = ".token_adapter.trainable_tokens_delta"
_EXPERTS = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
"""Parameters of experts, in the order in which transformers defines them and PEFT wraps them."""

Shape = tuple[int, ...]


class Base(msgspec.Struct, frozen=True):
    """The model that an adapter is for. shapes: its tensors. spelled: the name of one of them from the name that a
    module of transformers has, None where there is none. transposed: whether a matrix is stored as [in, out]; None
    where that is not known."""

    shapes: Mapping[str, Shape]
    spelled: Callable[[str], str | None]
    transposed: Callable[[str], bool | None]


class _Module(msgspec.Struct):
    """The tensors of one wrapped module. depth: how many wrappers are around it, more for what was wrapped earlier."""

    name: str
    depth: int = 0
    embedding: bool = False
    parts: dict[str, Tensor] = msgspec.field(default_factory=dict)


class Adapter(msgspec.Struct):
    """An adapter, parsed. options: its configuration. modules: what has factors. saved: whole tensors by name. tokens:
    rows by the name of their module."""

    path: str
    options: peft_options.Options
    modules: list[_Module]
    saved: dict[str, Tensor]
    tokens: dict[str, Tensor]

    def changes(self, base: Base, weight: float = 1.0) -> Changes:
        """What it does to the tensors of a model, by their names there.

        weight: times the scale of every pair. Raises UnsupportedError (adapter-unmatched: modules that the model does
        not have), CorruptFile (adapter-shape, adapter-rank).
        """
        found = Changes()
        unmatched = [name for name in self.saved if base.spelled(name) is None]
        unmatched += [name for name in self.tokens if base.spelled(f"{name}.weight") is None]
        experts: dict[str, list[_Module]] = {}
        for module in self.modules:
            name = base.spelled(f"{module.name}.weight")
            if name is not None:
                self._matrix(module, name, base, found, weight)
            elif not module.embedding and self._parameters(module.name, base):
                experts.setdefault(module.name, []).append(module)
            else:
                unmatched.append(module.name)
        if unmatched:
            raise UnsupportedError(
                "the adapter is for modules that the base model does not have",
                code="adapter-unmatched",
                path=self.path,
                found=", ".join(unmatched[:8]) + (f" and {len(unmatched) - 8} more" if len(unmatched) > 8 else ""),
                hint="is this the model that it was trained on?",
                unmatched=unmatched,
            )
        for modules in experts.values():
            self._experts(modules, base, found, weight)
        for name, tensor in self.saved.items():
            self._save(name, tensor, base, found)
        for name, tensor in self.tokens.items():
            self._replace_rows(name, tensor, base, found)
        return found

    def _matrix(self, module: _Module, name: str, base: Base, found: Changes, weight: float) -> None:
        """A pair for a matrix, stored as [out, in] or transposed, and the change of its bias."""
        key = f"{module.name}.weight" if self.options.is_parameter(f"{module.name}.weight") else module.name
        a, b, scale = self._factors(module, key)
        pair = Pair(a, b, scale * weight, self._magnitude(module, b.shape[0]))
        shape, turned = base.shapes[name], pair.shape[::-1]
        if module.embedding or (turned == shape and (pair.shape != shape or self._stored_turned(name, base))):
            pair = pair.transposed
        if pair.shape != shape:
            raise self._misfit(module.name, pair.shape, shape)
        _once(found.pairs, name, pair, self.path)
        if "bias" in module.parts:
            bias = base.spelled(f"{module.name}.bias")
            if bias is None or base.shapes[bias] != module.parts["bias"].shape or self.options.dora:
                raise UnsupportedError(
                    "the adapter has a bias where the base model has none, or another",
                    code="lora-bias",
                    path=self.path,
                    place=module.name,
                )
            found.vectors[bias] = Vector(_finite(module.parts["bias"]), scale * weight)

    def _stored_turned(self, name: str, base: Base) -> bool:
        """Whether a square matrix is stored as [in, out]."""
        known = base.transposed(name)
        return self.options.fan_in_fan_out if known is None else known

    def _factors(self, module: _Module, key: str, n_experts: int = 1) -> tuple[Expression, Expression, float]:
        """A [rank, in], B [out, rank] and the scale; the rank is that of the configuration."""
        a, b = (module.parts.get(part) for part in ("A", "B"))
        if a is None or b is None or (self.options.dora and n_experts == 1) != ("magnitude" in module.parts):
            have = ", ".join(sorted(module.parts))
            raise CorruptFile(
                "a module without both of its factors, or whose magnitudes are not as the configuration says",
                code="adapter-pair",
                path=self.path,
                place=module.name,
                found=have,
            )
        rank, scale = self.options.scale(key, self.path)
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise UnsupportedError(
                "only adapters of matrices are supported",
                code="adapter-convolution",
                path=self.path,
                place=module.name,
                found=(list(a.shape), list(b.shape)),
            )
        if (a.shape[0], b.shape[1]) != (rank * n_experts, rank * n_experts) or rank > RANK_LIMIT:
            error = LimitExceeded if rank > RANK_LIMIT else CorruptFile
            raise error(
                "factors of another rank than the configuration says, or of one that is not accepted",
                code="adapter-rank",
                path=self.path,
                place=module.name,
                found=(list(a.shape), list(b.shape)),
                allowed=f"{rank * n_experts}, the rank at most {RANK_LIMIT}",
            )
        return _finite(a), _finite(b), scale

    def _magnitude(self, module: _Module, n_out: int) -> Expression | None:
        tensor = module.parts.get("magnitude")
        if tensor is None:
            return None
        if math.prod(tensor.shape) != n_out:
            raise self._misfit(module.name, tensor.shape, (n_out,))
        return Reshape(_finite(tensor), (n_out,))

    def _parameters(self, module: str, base: Base) -> list[str]:
        """The tensors of three axes directly below a module that the configuration names, in the order of wrapping."""
        short = sorted({target.rpartition(".")[2] for target in self.options.target_parameters})
        names = [name for name in short if self.options.is_parameter(f"{module}.{name}")]
        names.sort(key=lambda name: _EXPERTS.index(name) if name in _EXPERTS else len(_EXPERTS))
        found = [base.spelled(f"{module}.{name}") for name in names]
        return [name for name in found if name is not None and len(base.shapes[name]) == 3]

    def _experts(self, modules: list[_Module], base: Base, found: Changes, weight: float) -> None:
        """Pairs for parameters of experts, [experts, .., ..]: which is which, shapes and the order of wrapping say."""
        modules = sorted(modules, key=lambda module: -module.depth)
        names = self._parameters(modules[0].name, base)
        if len(names) != len(modules) or len({module.depth for module in modules}) != len(modules):
            raise UnsupportedError(
                "the adapter does not say which parameter of a module is which",
                code="adapter-parameters",
                path=self.path,
                place=modules[0].name,
                found=f"{len(modules)} pairs for {', '.join(names)}",
            )
        for module, name in zip(modules, names, strict=True):
            key = f"{module.name}.{name.rpartition('.')[2]}"
            n_experts, *shape = base.shapes[name]
            a, b, scale = self._factors(module, key, n_experts)
            turned = self._turned(name, (b.shape[0], a.shape[1]), shape, base)
            pair = _of_experts(a, b, n_experts, scale * weight)
            _once(found.pairs, name, pair.transposed if turned else pair, self.path)

    def _turned(self, name: str, factors: Shape, shape: list[int], base: Base) -> bool:
        """Whether the parameter of experts, [experts, *shape], has the axes of the factors (out, in) exchanged."""
        if list(factors) not in (shape, shape[::-1]):
            raise self._misfit(name, factors, tuple(shape))
        if shape[0] != shape[1]:
            return list(factors) != shape
        turned, version = base.transposed(name), self.options.version
        if turned is None or (not turned and version is None):
            raise UnsupportedError(
                "square parameters of experts, and nothing says which axis of them is which",
                code="adapter-parameters",
                path=self.path,
                place=name,
                hint="peft_version of adapter_config.json tells",
            )
        return turned or (version is not None and version < (0, 20))  # 0.18 and 0.19 did not look at is_transposed

    def _save(self, name: str, tensor: Tensor, base: Base, found: Changes) -> None:
        place = base.spelled(name)
        if place is None:
            raise AssertionError(name)
        if base.shapes[place] != tensor.shape:
            raise self._misfit(name, tensor.shape, base.shapes[place])
        _once(found.replaced, place, _finite(tensor), self.path)

    def _replace_rows(self, name: str, tensor: Tensor, base: Base, found: Changes) -> None:
        place = base.spelled(f"{name}.weight") or ""
        shape, rows = base.shapes[place], self.options.tokens(name, self.path)
        fits = len(shape) == 2 and tensor.shape == (len(rows), shape[1]) and rows and max(rows) < shape[0]
        if not fits:
            raise self._misfit(name, tensor.shape, shape)
        order = sorted(range(len(rows)), key=lambda index: rows[index])
        values = _finite(tensor)
        if order != list(range(len(rows))):
            raise UnsupportedError(
                "trained tokens that are not in ascending order", code="adapter-tokens", path=self.path, place=name
            )
        found.rows[place] = (rows, values)

    def _misfit(self, name: str, found: Shape, allowed: Shape) -> CorruptFile:
        return CorruptFile(
            "the adapter has another shape than the base model",
            code="adapter-shape",
            path=self.path,
            place=name,
            found=list(found),
            allowed=list(allowed),
            hint="is this the model that it was trained on? a vocabulary that was enlarged has to be in the base",
        )


def is_adapter(folder: str) -> bool:
    """True for a folder with an adapter and no model."""
    place = Path(folder)
    return (place / CONFIG).is_file() and not (place / "config.json").exists()


def read(path: str, files: Files, reader: Reader) -> Model:
    """The adapter in a folder. `config` is adapter_config.json; extras["peft"] is an `Adapter`; tensors have the names
    of the file.

    Raises SourceMissing, CorruptFile (adapter-config, adapter-pair, adapter-key), UnsupportedError (adapter-type,
    adapter-option and the like: what is not supported, by name), UnsafePath, LimitExceeded.
    """
    folder = Path(path)
    place = contained(folder, CONFIG, named_in=folder)
    if not place.is_file():
        raise SourceMissing("the folder holds no adapter", path=folder, allowed=CONFIG)
    size = files.size(str(place))
    if size > CONFIG_LIMIT:
        raise LimitExceeded(
            "the file is too long", code="file-size", path=place, found=size, allowed=f"at most {CONFIG_LIMIT} bytes"
        )
    config = strict_json.parse(files.read(str(place), 0, size), path=place, at_most=CONFIG_LIMIT, non_finite=True)
    if not isinstance(config, dict):
        raise CorruptFile("not a JSON object", code="json", path=place, found=type(config).__name__)
    options = peft_options.read(config, str(place))
    for name, read_weights in _WEIGHTS:
        if (folder / name).exists():
            weights = read_weights(str(contained(folder, name, named_in=folder)), files, reader)
            adapter = _parsed(path, options, weights.tensors)
            extras = {"peft": adapter, "notes": weights.extras.get("notes", [])}
            return Model("peft", path, weights.tensors, config=config, extras=extras, files=files)
    raise SourceMissing("the folder holds no weights of an adapter", path=folder, allowed=", ".join(dict(_WEIGHTS)))


def _parsed(path: str, options: peft_options.Options, tensors: Mapping[str, Tensor]) -> Adapter:
    modules: dict[tuple[str, int], _Module] = {}
    adapter = Adapter(path, options, [], {}, {})
    for key, tensor in tensors.items():
        name = key.removeprefix(_ROOT)
        if not tensor.encoding.dense or tensor.encoding.element.kind != "float":
            raise UnsupportedError(
                "weights of an adapter are floating-point numbers",
                code="adapter-dtype",
                path=path,
                place=key,
                found=tensor.encoding.name,
            )
        match = _PART.fullmatch(name)
        if match is not None:
            _enter(modules, match, tensor, path)
        elif name.endswith(_TOKENS):
            adapter.tokens[name.removesuffix(_TOKENS)] = tensor
        elif "lora_" in name or ".original_module." in name or "token_adapter" in name:
            raise CorruptFile(
                "a name that no adapter of LoRA has", code="adapter-key", path=path, place=key, found=list(tensor.shape)
            )
        else:
            plain = re.sub(r"\.modules_to_save(\.default)?(?=\.)|\.base_layer(?=\.)", "", name)
            _once(adapter.saved, plain, tensor, path)
    if not modules and not adapter.saved and not adapter.tokens:
        raise CorruptFile("the adapter is empty", code="adapter-empty", path=path)
    adapter.modules = list(modules.values())
    return adapter


_PARTS = {
    ("lora_A", ".weight"): "A",
    ("lora_B", ".weight"): "B",
    ("lora_B", ".bias"): "bias",
    ("lora_embedding_A", ""): "A",
    ("lora_embedding_B", ""): "B",
    ("lora_magnitude_vector", ""): "magnitude",
    ("lora_magnitude_vector", ".weight"): "magnitude",
}


def _enter(modules: dict[tuple[str, int], _Module], match: re.Match[str], tensor: Tensor, path: str) -> None:
    part = _PARTS.get((match["part"], match["end"] or ""))
    name, depth = match["module"], 0
    while name.endswith(".base_layer"):
        name, depth = name.removesuffix(".base_layer"), depth + 1
    if part is None or not name or 0 in tensor.shape:
        raise CorruptFile(
            "a name that no adapter of LoRA has, or an empty tensor",
            code="adapter-key",
            path=path,
            place=match[0],
            found=list(tensor.shape),
            hint="shards of a distributed run were not gathered before they were saved" if part and name else None,
        )
    module = modules.setdefault((name, depth), _Module(name, depth))
    module.embedding = module.embedding or "embedding" in match["part"]
    _once(module.parts, part, tensor, path)


def _finite(tensor: Tensor) -> Expression:
    return Finite(tensor.expr, tensor.name)


def _of_experts(a: Expression, b: Expression, n_experts: int, scale: float) -> Pair:
    """A [rank of each expert after the other, in] and B [out, expert of each rank after the other] as pairs [expert,
    out, in]."""
    rank = a.shape[0] // n_experts
    n_out, width = b.shape
    each = Strided(Reshape(b, (n_out * width, 1)), 0, (n_experts, n_out, rank), (1, width, n_experts))
    return Pair(Reshape(a, (n_experts, rank, a.shape[1])), each, scale)


def _once(found: dict[str, Any], name: str, value: Any, path: str) -> None:
    if name in found:
        raise CorruptFile("a tensor of the model is changed twice", code="duplicate-key", path=path, place=name)
    found[name] = value
