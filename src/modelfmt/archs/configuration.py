"""config.json of a checkpoint, from the metadata of a GGUF file: the inverse of what `bind` reads.

The table's own rows say it; here are only the parts that no row has: classes, tied embeddings, special token ids, rope,
windows, and the pooling of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelfmt.archs import hparams, unrope
from modelfmt.archs.unbind import Unbound
from modelfmt.archs.values import refused, shortest

__all__ = ["configuration"]

_IDS = ("bos", "eos", "pad")


def configuration(
    unbound: Unbound,
    *,
    metadata: Mapping[str, Any],
    factors: Mapping[str, Sequence[float]],
    special: Mapping[str, int],
    dtype: str,
) -> dict[str, Any]:
    """config.json, as a dictionary that transformers loads.

    factors: the values of the constants of `unbound`. special: ids of special tokens by role. dtype: the name that
    torch has for the type of the weights. Raises CorruptFile, UnsupportedError (a rope that config.json cannot say).
    """
    arch, scope = unbound.architecture, unbound.hparams | _filled(unbound, factors)
    cls, model_type = arch.writes or (arch.hf[0], arch.model_type[0])
    config: dict[str, Any] = {"architectures": [cls], "model_type": model_type}
    config |= hparams.configuration(arch, scope, metadata)
    turned = unrope.configuration(arch, scope, metadata, factors)
    for name, value in turned.items():
        config[name] = {**value, **config[name]} if isinstance(config.get(name), dict) else value
    if "rope_scaling" in turned:
        config["rope_scaling"] = config["rope_parameters"]
    if arch.window is not None:
        config |= hparams.layers(arch.window, arch, metadata, scope["n_layer"])
    if any(param.name == "tied" and param.paths for param in arch.params):
        config["tie_word_embeddings"] = scope["tied"]
    config |= {f"{role}_token_id": special.get(role) for role in _IDS if f"{role}_token_id" not in config}
    config |= {"dtype": dtype, "torch_dtype": dtype}
    if not arch.inside:
        return config
    return {"architectures": [cls], "model_type": model_type, "text_config": {**config, "model_type": arch.inside}}


def _filled(unbound: Unbound, factors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The params that are the values of tensors."""
    found: dict[str, Any] = {}
    for row in unbound.architecture.filled:
        names = [row.target.replace("{i}", str(layer)) for layer in range(unbound.hparams["n_layer"])]
        values = sorted({value for name in names for value in factors.get(name, ())})
        if len(values) != 1 or not (row.param or values == [1.0]):
            detail = "config.json of this architecture has one number for all values of these tensors, or none"
            raise refused(row.target, values[:8], detail, path="metadata")
        if row.param:
            found[row.param] = shortest(values[0])
    return found
