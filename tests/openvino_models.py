"""Tiny checkpoints of the real transformers classes, and what they compute, beside the OpenVINO graphs made of them.

python tests/openvino_models.py [NAME ...] [--dtype float32] [--gguf F32]
"""

from __future__ import annotations

import argparse
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
import transformers
from openvino import opset13 as opset

import modelfmt
import onnx_models
from modelfmt.formats.openvino import ELEMENT_NAMES
from modelfmt.graphs import build, shapes
from modelfmt.graphs import openvino as lowering
from modelfmt.graphs.builder import Form
from modelfmt.graphs.weights import bound

PRECISIONS = {port: name for name, port in ELEMENT_NAMES.values()}
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
    "INFERENCE_NUM_THREADS": "1",
}
"""The plugin's own roundings off: what is measured is the graph."""


def compiled(path: Path) -> openvino.CompiledModel:
    core = openvino.Core()
    return core.compile_model(core.read_model(path), "CPU", EXACT)


def kernels(run: openvino.CompiledModel) -> Counter[str]:
    """How many kernels of each kind the plugin made of the graph."""
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in run.get_runtime_model().get_ops())


def constants(run: openvino.CompiledModel, kind: str) -> list[openvino.PartialShape]:
    """The shapes of the constants of a type that the plugin keeps."""
    nodes = [
        node for node in run.get_runtime_model().get_ops() if node.get_rt_info()["layerType"].astype(str) == "Const"
    ]
    return [
        node.get_output_partial_shape(0) for node in nodes if node.get_output_element_type(0).get_type_name() == kind
    ]


def misjudged(path: Path) -> list[str]:
    """Outputs of layers whose type or shape in the file is not what OpenVINO infers."""
    found = {node.get_friendly_name(): node for node in openvino.Core().read_model(path).get_ops()}
    wrong = []
    for layer in ElementTree.parse(path).getroot().iter("layer"):
        for place, port in enumerate(layer.iterfind("output/port")):
            node = found[layer.attrib["name"]]
            theirs = [size.get_length() if size.is_static else -1 for size in node.get_output_partial_shape(place)]
            ours = [int(size.text or "") for size in port.iterfind("dim")]
            kinds = PRECISIONS[port.attrib["precision"]], node.get_output_element_type(place).get_type_name()
            if ours != theirs or kinds[0] != kinds[1]:
                wrong.append(f"{node.get_friendly_name()}: {kinds[0]} {ours}, {kinds[1]} {theirs}")
    return wrong


def both_shapes(folder: Path) -> list[tuple[str, Any, Any]]:
    """Name, type and shape of every structural value of a checkpoint that is there after the lowering: as its
    structural node says, and as the lowered one does, where both know."""
    with modelfmt.open(folder) as model:
        tensors = {key: tensor.expr for key, tensor in model.tensors.items()}
        given = {"architecture": model.architecture, "config": model.config, "assets": model.assets}
        weights = bound(tensors=tensors, **given)
        graphs = build.structural(weights, Form(), model.architecture or "", model.assets).values()
    seen = []
    for graph in graphs:
        lowered = {value.name: value for value in lowering.lower(graph, Form())[0].graph.values}
        for key, ours in shapes.infer(graph).items():
            theirs = lowered.get(key)
            if theirs and len(theirs.shape or ()) == len(ours.shape or ()):  # values of heads lie otherwise
                pairs = list(zip(ours.shape or (), theirs.shape or (), strict=True))
                both = [(a, b) for a, b in pairs if a is not None and b is not None]
                seen.append((key, (ours.type, [a for a, _ in both]), (theirs.type, [b for _, b in both])))
    return seen


def matrices(path: Path) -> dict[str, np.ndarray]:
    """Every quantized matrix [n, k] in a model, as the plugin computes it from an identity; the names of weights."""
    found = {}
    for node in openvino.Core().read_model(path).get_ops():
        name = node.get_friendly_name().removesuffix("/values")
        if name == node.get_friendly_name() or len(node.get_output_shape(0)) != 2:
            continue
        x = opset.parameter([-1, node.get_output_shape(0)[1]], np.float32)
        model = openvino.Model([opset.result(opset.matmul(x, node, False, True))], [x])
        run = openvino.Core().compile_model(model, "CPU", EXACT)
        found[name] = run(np.eye(node.get_output_shape(0)[1], dtype=np.float32))[0].T
    return found


def difference(model: Any, run: openvino.CompiledModel, *, steps: int = 10, prompt: int = 7) -> float:
    """The largest difference of logits, over a padded batch of two texts: the prompt, then `steps` tokens that go on
    from the state; then the same prompt once more, with the state reset."""
    request = run.create_infer_request()
    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocab, (2, prompt + steps), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    worst, theirs_cache = 0.0, None
    names = {name for value in run.inputs for name in value.names}
    for start, stop in [(0, prompt), *((at, at + 1) for at in range(prompt, prompt + steps)), (0, prompt)]:
        if start == 0:
            request.reset_state()
            theirs_cache = None
        feeds = {
            "input_ids": ids[:, start:stop].numpy(),
            "attention_mask": mask[:, :stop].numpy(),
            "position_ids": positions[:, start:stop].numpy(),
            "beam_idx": np.arange(2, dtype=np.int32),
        }
        found = request.infer({name: value for name, value in feeds.items() if name in names})["logits"]
        with torch.no_grad():
            theirs = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                cache=theirs_cache,
                use_cache=True,
            )
        theirs_cache = theirs.cache
        seen = mask[:, start:stop].numpy().astype(bool)
        worst = max(worst, float(np.abs(found - theirs.logits.numpy())[seen].max()))
    return worst


def encoder_difference(model: Any, run: openvino.CompiledModel) -> float:
    """The largest difference of hidden states over a padded batch of two texts, padding aside."""
    feeds, seen = onnx_models.padded_batch(model)
    names = {name for value in run.inputs for name in value.names}
    given = {name: value.numpy() for name, value in feeds.items() if name in names}
    found = run(given)["last_hidden_state"]
    with torch.no_grad():
        theirs = model(**{name: feeds[name] for name in given}).last_hidden_state.numpy()
    return float(np.abs(found - theirs)[seen].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    import openvino_towers

    towers = openvino_towers.models()
    parser.add_argument("names", nargs="*", default=[*onnx_models.DECODERS, *onnx_models.ENCODERS, *towers])
    parser.add_argument("--dtype", default="float32", help="of the checkpoint")
    parser.add_argument("--gguf", metavar="TYPE", help="by way of a GGUF file of a dense type")
    given = parser.parse_args()
    for name in given.names:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if name in towers:
                model = towers[name][0](name)
                model.save_pretrained(folder / "model")
                modelfmt.convert(folder / "model", folder / "made", to="openvino")
                wrong = [line for path in (folder / "made").glob("*.xml") for line in misjudged(path)]
                print(f"{name:20} {towers[name][1](model, folder / 'made'):.2e}", *wrong, sep="\n  ", flush=True)
                continue
            decoding = name in onnx_models.DECODERS
            model = onnx_models.decoder(name) if decoding else onnx_models.encoder(name)
            model.to(getattr(torch, given.dtype)).save_pretrained(folder / "model")
            kind = transformers.AutoModelForCausalLM if decoding else transformers.AutoModel
            eager: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
            model = kind.from_pretrained(folder / "model", **eager).eval()
            source = folder / "model"
            if given.gguf:
                modelfmt.convert(source, folder / "model.gguf", quant=given.gguf)
                source = folder / "model.gguf"
            modelfmt.convert(source, folder / "made.xml")
            compare = difference if decoding else encoder_difference
            run = compiled(folder / "made.xml")
            worst, made = compare(model, run), kernels(run)
            wanted = ("RMS", "RoPE", "ScaledDotProductAttention", "FullyConnected", "MHA", "GatherMatmul")
            fused = ", ".join(f"{made[kind]} {kind}" for kind in wanted if made[kind])
            print(f"{name:20} {worst:.2e}  {fused}", *misjudged(folder / "made.xml"), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
