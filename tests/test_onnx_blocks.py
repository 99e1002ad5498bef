"""Quantized matrices of ONNX graphs as the tensors that they mean: beside what ONNX Runtime computes, and gguf-py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer

import modelfmt
from modelfmt.checkpoints.onnx_blocks import matrices
from modelfmt.errors import CorruptFile, ModelfmtError, UnsupportedError
from modelfmt.tiles import Evaluator

RNG = np.random.default_rng(7)
N = 5


def saved(path: Path, nodes: list[Any], constants: list[Any], output: str, inputs: tuple[Any, ...] = ()) -> Path:
    result = onnx.ValueInfoProto(name=output)
    graph = helper.make_graph(nodes, "g", list(inputs), [result], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def ran(path: Path, **given: Any) -> np.ndarray:
    """The output, of the operators as they stand there: fused ones round activations to 8 bits."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    made: np.ndarray = run.run(None, given)[0]
    return made


def values(path: Path) -> dict[str, np.ndarray]:
    """Every quantized matrix in float32."""
    with modelfmt.open(path) as model:
        assert model.program is not None
        reader, found = Evaluator(model.files), {}
        for name, one in matrices(model.program, str(path)).items():
            shape = one.expr.shape
            found[name] = reader.values(one.expr, 0, int(np.prod(shape[:-1]))).reshape(shape)
    return found


def product(
    path: Path, bits: int, k: int, block: int, zeros: str, scale: Any = np.float32, g_idx: bool = False
) -> Path:
    """A MatMulNBits with numbers of chance. zeros: "", "packed" or "float"."""
    n_blocks = -(-k // block)
    parts = {
        "w_codes": RNG.integers(0, 256, (N, n_blocks, block * bits // 8), np.uint8),
        "w_scales": RNG.uniform(-0.1, 0.1, (N, n_blocks)).astype(scale),
    }
    if zeros == "packed":
        parts["w_zeros"] = RNG.integers(0, 256, (N, -(-n_blocks * bits // 8)), np.uint8)
    elif zeros:
        parts["w_zeros"] = RNG.uniform(0, 1 << bits, (N, n_blocks)).astype(scale)
    inputs = ["x", *parts]
    if g_idx:
        parts["g"] = np.arange(n_blocks * block, dtype=np.int32) // block
        inputs = [*inputs, *([] if zeros else [""]), "g"]
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=k, N=N, bits=bits, block_size=block, accuracy_level=0
    )
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(scale)), [k, k])
    constants = [numpy_helper.from_array(array, name) for name, array in parts.items()]
    return saved(path, [node], constants, "y", (x,))


@pytest.mark.parametrize(
    ("bits", "k", "block", "zeros"),
    [
        *((bits, *size, zeros) for bits in (4, 8) for size in ((96, 32), (40, 16)) for zeros in ("", "packed")),
        *((4, 96, 32, "float"), (4, 40, 16, "float"), (2, 96, 32, ""), (2, 96, 32, "packed"), (4, 35, 16, "packed")),
    ],
)
def test_products(bits: int, k: int, block: int, zeros: str, tmp_path: Path) -> None:
    """An odd number of blocks, columns that are padded; float zeros within the rounding of float32."""
    path = product(tmp_path / "m.onnx", bits, k, block, zeros)
    wanted = ran(path, x=np.eye(k, dtype=np.float32)).T
    (made,) = values(path).values()
    assert made.shape == (N, k)
    assert np.abs(made - wanted).max() <= (2e-7 * np.abs(wanted).max() if zeros == "float" else 0)


def test_half_scales(tmp_path: Path) -> None:
    path = product(tmp_path / "m.onnx", 4, 96, 32, "packed", np.float16)
    wanted = ran(path, x=np.eye(96, dtype=np.float16)).T
    assert np.array_equal(values(path)["w"].astype(np.float16), wanted)


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT8", "UINT8"])
@pytest.mark.parametrize(
    ("shape", "axis", "block"), [((5, 96), 1, 32), ((5, 33), -1, 11), ((96, 5), 0, 32), ((3, 4, 32), 2, 16)]
)
@pytest.mark.parametrize("zeros", [False, True])
def test_dequantize_linear(
    kind: str, shape: tuple[int, ...], axis: int, block: int, zeros: bool, tmp_path: Path
) -> None:
    """Blocks along either axis; rows and zero points that end within a byte; experts."""
    number, bits = getattr(TensorProto, kind), int(kind[-1])
    groups = tuple(size // block if at == axis % len(shape) else size for at, size in enumerate(shape))

    def integers(name: str, size: tuple[int, ...]) -> Any:
        raw = RNG.integers(0, 256, -(-int(np.prod(size)) * bits // 8), np.uint8).tobytes()
        return helper.make_tensor(name, number, size, raw, raw=True)

    scales = numpy_helper.from_array(RNG.uniform(-0.1, 0.1, groups).astype(np.float32), "w_scales")
    constants = [integers("w_quantized", shape), scales, *([integers("w_zeros", groups)] if zeros else [])]
    node = helper.make_node("DequantizeLinear", [one.name for one in constants], ["y"], axis=axis, block_size=block)
    path = saved(tmp_path / "m.onnx", [node], constants, "y")
    assert np.array_equal(values(path)["w"], ran(path))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="g_idx") as caught:
        values(product(tmp_path / "m.onnx", 4, 64, 32, "", g_idx=True))
    assert caught.value.code == "quant-config"
    found = modelfmt.verify(tmp_path / "m.onnx", tmp_path / "m.onnx", outputs=False)
    assert found.passed and "g_idx" in found.notes[0]
    path = product(tmp_path / "m.onnx", 4, 64, 32, "packed")
    for part, code in {"w_codes": "quant-shape", "w_scales": "quant-shape", "w_zeros": "quant-shape"}.items():
        model = onnx.load(path)
        (one,) = (tensor for tensor in model.graph.initializer if tensor.name == part)
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one)[1:], part))
        onnx.save(model, tmp_path / "cut.onnx")
        with pytest.raises(CorruptFile) as short:
            values(tmp_path / "cut.onnx")
        assert short.value.code == code
    for name, value in {"bits": 3, "block_size": 24, "N": -1, "K": 1 << 40}.items():
        model = onnx.load(path)
        next(a for a in model.graph.node[0].attribute if a.name == name).i = value
        onnx.save(model, tmp_path / "odd.onnx")
        with pytest.raises(ModelfmtError):
            values(tmp_path / "odd.onnx")


@pytest.fixture(scope="module")
def blocks(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("blocks")
    modelfmt.convert(golden / "checkpoints/qwen3", place / "m.gguf", quant="Q4_0", pure=True)
    return place / "m.gguf"


@pytest.mark.parametrize("profile", ["auto", "onnx-standard", "ort"])
def test_verify_sees_quantized_matrices(profile: str, blocks: Path, tmp_path: Path) -> None:
    """Carried over from GGUF bit by bit, which gguf-py says, too; a nibble that is wrong shows."""
    path = tmp_path / "m.onnx"
    modelfmt.convert(blocks, path, profile=profile)
    found = modelfmt.verify(path, blocks, outputs=False, max_error=0)
    own = {row.name: row for row in found.weights}
    assert found.passed and not found.missing
    made = {name: array for name, array in values(path).items() if name in own}
    down = "model.layers.0.mlp.down_proj.weight"
    assert own[down].max_error == 0
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(blocks).tensors}
    for name, other in {down: "blk.0.ffn_down.weight", "model.embed_tokens.weight": "token_embd.weight"}.items():
        assert np.array_equal(made[name], gguf.dequantize(stored[other].data, stored[other].tensor_type))
    model = onnx.load(path)
    (codes,) = (one for one in model.graph.initializer if one.name in (f"{down}_codes", f"{down}_quantized"))
    raw = bytearray(codes.raw_data)
    raw[10] ^= 8
    codes.raw_data = bytes(raw)
    onnx.save(model, path)
    found = modelfmt.verify(path, blocks, outputs=False, max_error=0)
    assert not found.passed and found.weights[0].name == down and "above 0" in found.failures[0]


@pytest.mark.parametrize(
    ("name", "kind", "profile"),
    [
        ("qwen3", "uint8", "auto"),
        ("qwen3", "uint4:16", "ort"),
        ("mixtral", "uint4:16", "auto"),
        ("mixtral", "int8", "onnx-standard"),
    ],
)
def test_verify_of_made_integers(kind: str, profile: str, name: str, golden: Path, tmp_path: Path) -> None:
    """Every weight of the checkpoint has its own beside it, embeddings and experts, too."""
    source = golden / "checkpoints" / name
    modelfmt.convert(source, tmp_path / "m.onnx", quant=kind, profile=profile)
    found = modelfmt.verify(tmp_path / "m.onnx", source, outputs=False, max_error=0.2 if "4" in kind else 0.02)
    assert found.passed and not found.missing, (found.failures, found.missing)
    assert found.weights[0].rms_error > (0.02 if "4" in kind else 0.001)


def test_verify_between_graphs(golden: Path, tmp_path: Path) -> None:
    """Of other widths by value; beside the codes of the same graph as they are stored."""
    for kind in ("int4", "int8"):
        modelfmt.convert(golden / "checkpoints/qwen3", tmp_path / f"{kind}.onnx", quant=kind)
    found = modelfmt.verify(tmp_path / "int4.onnx", tmp_path / "int8.onnx", outputs=False)
    down = next(row for row in found.weights if row.name == "model.layers.0.mlp.down_proj.weight")
    assert found.passed and 0.01 < down.rms_error < 0.2
    modelfmt.convert(tmp_path / "int4.onnx", tmp_path / "raw.safetensors")
    found = modelfmt.verify(tmp_path / "raw.safetensors", tmp_path / "int4.onnx", outputs=False, max_error=0)
    assert found.passed and any(row.name.endswith("_codes") for row in found.weights)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("operator", ["QOperator", "QDQ"])
def test_the_quantizer_of_onnx_runtime(operator: str, symmetric: bool, tmp_path: Path) -> None:
    """Its matrices have the names and the order of the model that it was given, and the values that it computes."""
    weight = RNG.normal(size=(96, 24)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [96, 96])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    source = saved(tmp_path / "m.onnx", [node], [numpy_helper.from_array(weight, "w")], "y", (x,))
    made = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        onnx.load(source),
        block_size=32,
        is_symmetric=symmetric,
        quant_format=getattr(matmul_nbits_quantizer.QuantFormat, operator),
    )
    made.process()
    made.model.save_model_to_file(str(tmp_path / "q.onnx"))
    wanted = ran(tmp_path / "q.onnx", x=np.eye(96, dtype=np.float32))
    assert np.array_equal(values(tmp_path / "q.onnx")["w"], wanted)
    found = modelfmt.verify(tmp_path / "q.onnx", source, outputs=False, max_error=0.2)
    (row,) = found.weights
    assert found.passed and row.max_error == pytest.approx(np.abs(wanted - weight).max(), rel=1e-6)
