"""Passes over a program: what makes it smaller or orders it without changing what it computes.

Each asks before and after whether the program is sound (`check`): every name is given once, every value is there before
it is used, everything that is put out is made. Graphs inside of nodes see the names around them; functions see none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from modelfmt.errors import CorruptFile
from modelfmt.ir.graph import Function, Graph, GraphTensor, Node, Program, walk_graphs
from modelfmt.ir.ops import Expression

__all__ = ["check", "lift_constants", "merge_constants", "remove_unused", "sort"]


def check(program: Program) -> None:
    """Raise CorruptFile where a name is given twice, or a value is used that is not there yet.

    >>> check(Program(Graph(nodes=[Node("Relu", ["x"], ["y"])])))
    Traceback (most recent call last):
        ...
    modelfmt.errors.CorruptFile: x: a value that nothing makes before it is used [graph-value]
    """
    _check(program.graph, frozenset())
    for function in program.functions:
        _in_order(function.nodes, set(function.inputs), function.outputs)


def _check(graph: Graph, around: frozenset[str]) -> None:
    known, inputs = {*around}, [value.name for value in graph.inputs]
    constants = [*graph.tensors, *(sparse.values.name for sparse in graph.sparse)]
    for name in [*inputs, *(name for name in constants if name not in inputs)]:  # a default of an input bears its name
        _give(name, known)
    _in_order(graph.nodes, known, [value.name for value in graph.outputs])


def _give(name: str, known: set[str]) -> None:
    if name in known:
        raise CorruptFile("a value that is given twice", code="graph-duplicate", place=name)
    known.add(name)


def _in_order(nodes: Sequence[Node], known: set[str], outputs: Sequence[str]) -> None:
    for node in nodes:
        missing = next((name for name in node.inputs if name and name not in known), None)
        if missing is not None:
            raise CorruptFile("a value that nothing makes before it is used", code="graph-value", place=missing)
        for inner in _inside(node):
            _check(inner, frozenset(known))
        for name in node.outputs:
            if name:
                _give(name, known)
    missing = next((name for name in outputs if name not in known), None)
    if missing is not None:
        raise CorruptFile("an output that nothing makes", code="graph-value", place=missing)


def _inside(node: Node) -> Iterator[Graph]:
    """The graphs of a node."""
    for attribute in node.attributes.values():
        if attribute.kind == "GRAPH" and isinstance(attribute.value, Graph):
            yield attribute.value
        elif attribute.kind == "GRAPHS":
            yield from attribute.value


def _needs(node: Node) -> set[str]:
    """The names that a node uses, those that its graphs see around them among them."""
    found = {name for name in node.inputs if name}
    for graph in _inside(node):
        found |= _from_around(graph)
    return found


def _from_around(graph: Graph) -> set[str]:
    used = {name for node in graph.nodes for name in _needs(node)} | {value.name for value in graph.outputs}
    own = {name for node in graph.nodes for name in node.outputs} | {value.name for value in graph.inputs}
    return used - own - graph.tensors.keys() - {sparse.values.name for sparse in graph.sparse}


def _checked(change: Callable[[Program], int]) -> Callable[[Program], int]:
    """A pass that leaves a sound program sound."""

    def run(program: Program) -> int:
        check(program)
        changed = change(program)
        check(program)
        return changed

    run.__doc__ = change.__doc__
    return run


def sort(program: Program) -> int:
    """Bring the nodes of each graph into an order in which every value is made before it is used: those that are in
    order stay. Returns how many graphs were out of order. Raises CorruptFile (nodes that wait for each other)."""
    changed = 0
    for _, graph in walk_graphs(program):
        ordered = _ordered(graph)
        changed += ordered != graph.nodes
        graph.nodes = ordered
    check(program)
    return changed


def _ordered(graph: Graph | Function) -> list[Node]:
    makers = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs if name}
    needs = [{makers[name] for name in _needs(node) if name in makers} for node in graph.nodes]
    done: dict[int, None] = {}
    for first in range(len(graph.nodes)):
        stack, path = [first], set()
        while stack:
            at = stack[-1]
            waits = [other for other in sorted(needs[at]) if other not in done]
            if at in done or not waits:
                done.setdefault(stack.pop())
                path.discard(at)
                continue
            path.add(at)
            if not path.isdisjoint(waits):
                raise CorruptFile(
                    "nodes that wait for each other", code="graph-cycle", place=graph.nodes[at].outputs[0]
                )
            stack += reversed(waits)
    return [graph.nodes[index] for index in done]


@_checked
def remove_unused(program: Program) -> int:
    """Leave out nodes and constants that nothing which is put out needs. Returns how many nodes."""
    return _swept(program.graph) + sum(_swept(function) for function in program.functions)


def _swept(graph: Graph | Function) -> int:
    outputs = graph.outputs if isinstance(graph, Function) else [value.name for value in graph.outputs]
    wanted, kept = set(outputs), []
    removed = 0
    for node in reversed(graph.nodes):
        if wanted.isdisjoint(node.outputs):
            removed += 1
            continue
        removed += sum(_swept(inner) for inner in _inside(node))
        wanted |= _needs(node)
        kept.append(node)
    graph.nodes = kept[::-1]
    if isinstance(graph, Graph):
        wanted |= {value.name for value in graph.inputs}
        graph.tensors = {name: tensor for name, tensor in graph.tensors.items() if name in wanted}
        graph.sparse = [sparse for sparse in graph.sparse if sparse.values.name in wanted]
    return removed


@_checked
def lift_constants(program: Program) -> int:
    """Make constants of the graph from Constant nodes that hold a dense tensor. Returns how many."""
    return _lifted(program.graph)


def _lifted(graph: Graph) -> int:
    kept, lifted = [], 0
    for node in graph.nodes:
        lifted += sum(_lifted(inner) for inner in _inside(node))
        tensor = node.get("value") if node.op == "Constant" and node.domain in ("", "ai.onnx") else None
        if isinstance(tensor, GraphTensor):
            tensor.name = node.outputs[0]
            graph.tensors[tensor.name] = tensor
            lifted += 1
        else:
            kept.append(node)
    graph.nodes = kept
    return lifted


@_checked
def merge_constants(program: Program) -> int:
    """Keep one of constants of equal content: small ones by their bytes, large ones by their place in a file. Graphs
    inside of nodes use those around them. Returns how many were left out."""
    return _merged(program.graph, {}, {})


_Content = tuple[str, tuple[int, ...], Expression | tuple[bytes, ...]]


def _merged(graph: Graph, around: Mapping[_Content, str], renamed: Mapping[str, str]) -> int:
    first = dict(around)
    fixed = {value.name for value in [*graph.inputs, *graph.outputs]}
    own = graph.tensors.keys() | fixed | {name for node in graph.nodes for name in node.outputs}
    names = {old: new for old, new in renamed.items() if old not in own}
    for name, tensor in list(graph.tensors.items()):
        content = tensor.type, tensor.shape, tensor.texts if tensor.data is None else tensor.data
        kept = first.setdefault(content, name)
        if kept != name and name not in fixed:
            names[name] = kept
            del graph.tensors[name]
    merged = len(own - fixed) - len(own - fixed - names.keys())
    for node in graph.nodes:
        node.inputs = [names.get(name, name) for name in node.inputs]
        merged += sum(_merged(inner, first, names) for inner in _inside(node))
    return merged
