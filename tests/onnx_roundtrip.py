"""Every ONNX backend test case and real model, read and written back: equal protos, equal results in ONNX Runtime.

    python tests/onnx_roundtrip.py [--every N] [--data FOLDER]

Cases: the node tests that PyPI onnx generates, the models that it ships, and the .onnx files below FOLDER. Each is
written inside one file and with its constants beside it; both go through onnx.checker, are compared field by field with
the original (constants by their elements), and run in ONNX Runtime beside the original with the same inputs.
"""

from __future__ import annotations

import argparse
import collections
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.backend.test.case.model import collect_testcases as model_cases
from onnx.backend.test.case.node import collect_testcases as node_cases
from onnx.backend.test.loader import load_model_tests

import modelfmt

onnxruntime.set_default_logger_severity(4)


def cases(data: Path | None) -> Iterator[tuple[str, bytes | Path, list[Any] | None]]:
    """(name, the model as bytes or its path, inputs where the case has some)."""
    for kind, found in (("node", node_cases()), ("model", model_cases())):
        for case in found:
            if case.model is not None:
                given = case.data_sets[0][0] if case.data_sets else None
                yield f"{kind}/{case.name}", case.model.SerializeToString(), given
    yield from shipped_cases()
    if data is not None:
        yield from ((f"data/{path.relative_to(data)}", path, None) for path in sorted(data.rglob("*.onnx")))


def shipped_cases() -> Iterator[tuple[str, Path, None]]:
    """The models that lie in the package."""
    for kind in ("simple", "light", "pytorch-converted", "pytorch-operator", "real"):
        for case in load_model_tests(kind=kind):
            if case.model_dir is not None and (Path(case.model_dir) / "model.onnx").exists():
                yield f"{kind}/{case.name}", Path(case.model_dir) / "model.onnx", None
    shipped = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    yield from ((f"light/{path.name}", path, None) for path in sorted(shipped.glob("*.onnx")))


def plain(message: Any, base: str) -> Any:
    """A proto with what writing may change made equal: constants as dense raw bytes, no training information."""
    if isinstance(message, onnx.ModelProto):
        message.ClearField("training_info")
    for descriptor, value in message.ListFields():
        if value == "":
            message.ClearField(descriptor.name)
    if isinstance(message, onnx.TensorProto):
        if message.data_type != onnx.TensorProto.STRING:
            raw = raw_bytes(message, base)
            for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
                message.ClearField(name)
            message.ClearField("data_location")
            message.raw_data = raw
        return message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in value if hasattr(value, "__len__") else (value,):
                plain(inner, base)
    if isinstance(message, onnx.AttributeProto) and not message.type:
        message.type = next(d.number for d, _ in [(d, v) for d, v in message.ListFields() if d.name in "fistg"])
    return message


def raw_bytes(tensor: onnx.TensorProto, base: str) -> bytes:
    """The elements of a constant as raw_data has them, by onnx's own reader."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        onnx.external_data_helper.load_external_data_for_tensor(tensor, base)
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    again = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))
    return again.raw_data


def inputs(path: str, given: list[Any] | None) -> dict[str, Any] | None:
    """Made-up inputs, alike for every run; None where a type is not made here."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if given is not None:
        names = [value.name for value in session.get_inputs()]
        return dict(zip(names, (unwrapped(value) for value in given), strict=False))
    rng = np.random.default_rng(0)
    found = {}
    for value in session.get_inputs():
        kind = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2"}.get(value.type)
        whole = {f"tensor({s}int{b})": f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)}.get(value.type)
        shape = [dim if isinstance(dim, int) and dim >= 0 else 2 for dim in value.shape or ()]
        if kind:
            found[value.name] = rng.standard_normal(shape).astype(kind)
        elif whole:
            found[value.name] = rng.integers(0, 2, shape).astype(whole)
        elif value.type == "tensor(bool)":
            found[value.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            return None
    return found


def unwrapped(value: Any) -> Any:
    """An input of a test case as ONNX Runtime takes it."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def outcome(path: str, feeds: dict[str, np.ndarray] | None) -> Any:
    """What a run gives: outputs, or the error's first words (without the path)."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return None if feeds is None else session.run(None, feeds)
    except Exception as error:
        return str(error).replace(path, "MODEL")[:60]


def same(first: Any, second: Any) -> bool:
    """Whether two outcomes are equal, bit for bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, np.ndarray) and first.dtype == object:
        return first.shape == second.shape and first.tolist() == second.tolist()
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and bytes(first) == bytes(second)
    return bool(first == second)


def random_ops(model: onnx.ModelProto) -> bool:
    """Whether a model gives other results each time."""
    text = str(model)
    return any(word in text for word in ("Random", "Bernoulli", "Multinomial", "Dropout"))


def reason(error: str) -> str:
    """ONNX Runtime's word for an error: NOT_IMPLEMENTED where it has no kernel, and so on."""
    found = re.search(r"\d+ : ([A-Z_]+)", error)
    return found[1] if found else error


def check(model: bytes | Path, given: list[Any] | None, folder: Path) -> str:
    """One case: "equal", or what differs."""
    source = model if isinstance(model, Path) else folder / "source.onnx"
    if isinstance(model, bytes):
        source.write_bytes(model)
    original = onnx.load(source, load_external_data=False)
    wanted = plain(onnx.load(source, load_external_data=False), str(source.parent)).SerializeToString(True)
    try:
        onnx.checker.check_model(original)
        valid = True
    except onnx.checker.ValidationError:
        valid = False
    feeds: dict[str, np.ndarray] | None = None
    try:
        feeds = inputs(str(source), given)
        before = outcome(str(source), feeds)
    except Exception as error:
        before = str(error).replace(str(source), "MODEL")[:60]
    result = "equal" if isinstance(before, list) else "equal, not run: inputs of a kind that is not made here"
    if isinstance(before, str):
        result = f"equal, refused by ONNX Runtime as the original is: {reason(before)}"
    for external in ("auto", "always"):
        target = folder / f"{external}.onnx"
        modelfmt.convert(source, target, external=external, overwrite=True, threads=1)
        again = onnx.load(target, load_external_data=False)
        if plain(again, str(folder)).SerializeToString(True) != wanted:
            return f"another proto ({external})"
        if valid:
            onnx.checker.check_model(str(target))
        after = outcome(str(target), feeds) if isinstance(before, list | str | None) else None
        if isinstance(before, str) and "FAIL" not in str(after) and isinstance(after, list):
            return f"runs now ({external}): {before}"
        if isinstance(before, list) and not same(before, after):
            if random_ops(original):
                result = "equal, random results"
                continue
            return f"other results ({external}): {str(after)[:80]}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case")
    parser.add_argument("--data", type=Path, help="a folder of further .onnx files")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    for number, (name, model, inputs_given) in enumerate(cases(given.data)):
        if number % given.every:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = check(model, inputs_given, Path(folder))
            except Exception as error:
                found = f"{type(error).__name__}: {str(error)[:160]}"
        kind = name.split("/")[0]
        counts[f"{kind}: {found if found.startswith('equal') else 'NOT EQUAL'}"] += 1
        if not found.startswith("equal") or given.verbose:
            print(f"{name}: {found}", flush=True)
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")


if __name__ == "__main__":
    main()
