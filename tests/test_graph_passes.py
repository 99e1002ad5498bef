"""Passes over graphs: what they leave computes the same, and what is not sound is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as make
import pytest

import modelfmt
from modelfmt.errors import CorruptFile
from modelfmt.formats import onnx as onnx_format
from modelfmt.graphs import passes, reference
from modelfmt.ir.graph import Program, walk_graphs
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator


def constant(name: str, values: object) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, np.float32), name)


def messy() -> onnx.ModelProto:
    """Two branches that see constants around them; equal constants, unused nodes, a Constant node."""
    then = make.make_graph(
        [make.make_node("Add", ["x", "two"], ["sum"]), make.make_node("Tanh", ["sum"], ["unused_inside"])],
        "then",
        [],
        [make.make_tensor_value_info("sum", 1, None)],
    )
    other = make.make_graph(
        [make.make_node("Mul", ["x", "deux"], ["product"])],
        "else",
        [],
        [make.make_tensor_value_info("product", 1, None)],
        [constant("deux", [2.0, 2.0])],
    )
    nodes = [
        make.make_node("Constant", [], ["zwei"], value=constant("", [2.0, 2.0])),
        make.make_node("Exp", ["x"], ["unused"]),
        make.make_node("Sin", ["unused"], ["unused_too"]),
        make.make_node("If", ["flag"], ["chosen"], then_branch=then, else_branch=other),
        make.make_node("Sub", ["chosen", "zwei"], ["less"]),
        make.make_node("Div", ["less", "dos"], ["y"]),
    ]
    graph = make.make_graph(
        nodes,
        "messy",
        [make.make_tensor_value_info("x", 1, [2]), make.make_tensor_value_info("flag", 9, [])],
        [make.make_tensor_value_info("y", 1, [2])],
        [constant("two", [2.0, 2.0]), constant("dos", [2.0, 2.0]), constant("nothing", [5.0])],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def program() -> tuple[Program, Files]:
    files = Files()
    return onnx_format.parse(files.register("<messy>", messy().SerializeToString()), files)[0], files


def results(program: Program, files: Files) -> list[np.ndarray]:
    x = np.array([1.0, 3.0], np.float32)
    return [reference.run(program, {"x": x, "flag": np.array(flag)}, Evaluator(files))["y"] for flag in (True, False)]


def test_each_leaves_what_is_computed(program: tuple[Program, Files]) -> None:
    graph, files = program[0].graph, program[1]
    wanted = results(*program)
    assert passes.lift_constants(program[0]) == 1
    assert passes.merge_constants(program[0]) == 3  # zwei, dos, and deux inside of a branch
    assert passes.remove_unused(program[0]) == 3
    assert [node.op for node in graph.nodes] == ["If", "Sub", "Div"]
    assert len(graph.tensors) == 1 and sum(len(inner.nodes) for _, inner in walk_graphs(program[0])) == 5
    for found, value in zip(results(program[0], files), wanted, strict=True):
        assert (found == value).all()
    assert (passes.lift_constants(program[0]), passes.merge_constants(program[0]), passes.sort(program[0])) == (0, 0, 0)


def test_nodes_come_into_an_order(program: tuple[Program, Files]) -> None:
    """Any order is put right; what a branch sees counts."""
    wanted = results(*program)
    program[0].graph.nodes.reverse()
    with pytest.raises(CorruptFile, match="before it is used"):
        passes.remove_unused(program[0])
    assert passes.sort(program[0]) == 1
    for found, value in zip(results(*program), wanted, strict=True):
        assert (found == value).all()


def test_what_is_not_sound_is_named(program: tuple[Program, Files]) -> None:
    graph = program[0].graph
    graph.nodes[1].inputs[0] = "unused_too"
    with pytest.raises(CorruptFile, match="wait for each other") as caught:
        passes.sort(program[0])
    assert caught.value.code == "graph-cycle"
    graph.nodes[1].inputs[0] = "x"
    graph.nodes[2].outputs[0] = "two"
    with pytest.raises(CorruptFile, match="two: a value that is given twice"):
        passes.check(program[0])
    graph.nodes[2].outputs[0] = "unused_too"
    graph.outputs[0].name = "z"
    with pytest.raises(CorruptFile, match="an output that nothing makes"):
        passes.merge_constants(program[0])


def test_long_chains_do_not_recurse() -> None:
    nodes = [make.make_node("Tanh", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)][::-1]
    value = make.make_tensor_value_info
    graph = make.make_graph(nodes, "chain", [value("v0", 1, [1])], [value("v3000", 1, [1])])
    files = Files()
    program, _ = onnx_format.parse(files.register("<chain>", make.make_model(graph).SerializeToString()), files)
    assert passes.sort(program) == 1
    assert program.graph.nodes[0].inputs == ["v0"]


def test_graphs_that_are_built_need_no_pass(golden: Path, tmp_path: Path) -> None:
    """No node and no constant of them is unused, or stands twice."""
    modelfmt.convert(golden / "checkpoints" / "qwen3", tmp_path / "m.onnx")
    with modelfmt.open(tmp_path / "m.onnx") as model:
        assert model.program is not None
        assert passes.remove_unused(model.program) == 0
        assert passes.merge_constants(model.program) == 0
        assert passes.sort(model.program) == 0
