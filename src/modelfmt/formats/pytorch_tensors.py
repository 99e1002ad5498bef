"""What PyTorch's rebuild functions mean: a call in the tree becomes an expression over the bytes of its storage.

Source: torch/_utils.py (_rebuild_*), torch/_tensor.py (__reduce_ex__, __setstate__), torch/nn/parameter.py of torch
2.13 and, for states of tensors, of 0.1 to 0.4. Sizes, strides and storages are checked here; nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import msgspec

from modelfmt.errors import CorruptFile, LimitExceeded, ShapeError, UnsupportedError
from modelfmt.formats.pytorch_shards import DCP_NAMES, SHARD_NAMES, WRAPPER, Sharded, sharded
from modelfmt.formats.pytorch_types import DTYPES, STORAGES
from modelfmt.ir.boxes import misplaced
from modelfmt.ir.encoding import ENCODINGS
from modelfmt.ir.joining import joined
from modelfmt.ir.ops import Affine, Constant, Expression, FlipBits, Leaf, Strided
from modelfmt.pickles.arrays import ARRAY_CALLS, ARRAY_NAMES, array
from modelfmt.pickles.tree import DICT_CLASSES, class_name, entries, integers, sequence
from modelfmt.pickles.values import Call, Global, Persistent
from modelfmt.storage.region import Region

__all__ = ["Storage", "Tensors", "dtype_of", "understood"]

MAX_DIMS = 64
EXPANDED_LIMIT = 1 << 30
"""Bytes that a view may have beyond 16 times its storage (expanded views name one element many times)."""
MAX_SCALES = 1 << 20


class Storage(msgspec.Struct, frozen=True):
    """n_elements of a dtype in a region. region: None where the file has no data for it (device "meta")."""

    region: Region | None
    dtype: str
    n_elements: int
    big: bool = False

    def part(self, offset: int, n_elements: int) -> Storage:
        """Elements offset.. of the storage (views of storages, in old files)."""
        item = ENCODINGS[DTYPES[self.dtype].encoding].block_bytes
        region = self.region and self.region.part(offset * item, n_elements * item)
        return Storage(region, self.dtype, n_elements, self.big)


def dtype_of(value: Any) -> str | None:
    """The dtype that a storage class or a `torch.float8_e5m2` names; None for anything else."""
    if isinstance(value, Persistent) and isinstance(value.id, tuple) and len(value.id) > 1:
        value = value.id[1]
    if not isinstance(value, Global):
        return None
    last = value.name.rpartition(".")[2]
    if value.module.split(".")[0] != "torch":
        return None
    return STORAGES.get(last) or (last if last in DTYPES else None)


class Tensors:
    """Turns calls into expressions.

    resolve: a persistent id -> Storage or Expression; nested: a `_load_from_bytes` call -> Storage.
    """

    def __init__(
        self,
        region: Region,
        resolve: Callable[[Persistent], Storage | Expression | None],
        nested: Callable[[Call], Storage | None],
    ) -> None:
        self.region = region
        self.resolve = resolve
        self.nested = nested
        self._made: dict[int, Expression | None] = {}
        self.sharded: dict[int, Sharded] | None = None
        """Parts of tensors by the id of the (empty) expression that stands for them; None: a part alone is an error."""

    def tensor(self, value: Any, depth: int = 0) -> Expression | None:
        """The tensor that a value of the tree is; None where it is none.

        Raises CorruptFile (sizes that do not fit), UnsupportedError (sparse, meta, packed), LimitExceeded.
        """
        if not isinstance(value, Call | Persistent):
            return None
        if id(value) not in self._made:
            if depth > 8:
                raise LimitExceeded(
                    "tensors are wrapped too often",
                    code="tensor-depth",
                    path=self.region.path,
                    allowed="at most 8 times",
                )
            self._made[id(value)] = self._make(value, depth)
        return self._made[id(value)]

    def _make(self, value: Call | Persistent, depth: int) -> Expression | None:
        if isinstance(value, Persistent):
            found = self.resolve(value)
            return self._flat(found, value.offset) if isinstance(found, Storage) else found
        args = value.args if isinstance(value.args, tuple) else ()
        name = value.name
        if name in ARRAY_CALLS:
            return array(value, self.region)
        if name == "torch.storage._load_from_bytes":
            storage = self.nested(value)
            return self._flat(storage, value.offset) if storage else None
        if name in _WRAPPERS and args:
            return self.tensor(args[0], depth + 1)
        if name in _FROM_TYPE and len(args) >= 3 and isinstance(args[0], Global):
            return self._from_type(value, args, depth)
        if name in _REBUILD:
            least, build = _REBUILD[name]
            if len(args) < least:
                raise self._broken("a call to rebuild a tensor lacks arguments", "tensor-call", value.offset, len(args))
            return build(self, value, args)
        if name in _REFUSED:
            raise self._unsupported(_REFUSED[name], value.offset)
        return self._old_tensor(value)

    def _from_type(self, value: Call, args: tuple[Any, ...], depth: int) -> Expression | None:
        """_rebuild_from_type_v2(function, type, args, state): a subclass of Tensor, made like a plain one."""
        if str(args[0]) == WRAPPER:
            return self._part(value, args, depth)
        if str(args[0]) not in _REBUILD and str(args[0]) not in _WRAPPERS:
            return None
        inner = Call(args[0], args[2], value.offset, value.opcode)
        return self._make(inner, depth + 1)

    def _part(self, value: Call, args: tuple[Any, ...], depth: int) -> Expression:
        """A tensor over several ranks: whole, where this file holds all of it, else a mark in `sharded`."""
        found = sharded(self, value, args, depth)
        if found is None:
            raise self._unsupported(f"a tensor of the class {args[1]}", value.offset)
        if misplaced(found.shape, [(offset, expr.shape) for offset, expr in found.pieces]) is None:
            try:
                return joined(found.shape, found.pieces, found.encoding)
            except ShapeError as error:
                raise self._broken(error.message, "tensor-shard", value.offset, error.found) from None
        if self.sharded is None:
            raise UnsupportedError(
                "the file holds only a part of a tensor that is spread over several ranks",
                code="tensor-sharded",
                path=self.region.path,
                place=f"byte {value.offset}",
                found=f"{len(found.pieces)} parts of {found.shape}",
                hint="open the folder with the files of all ranks",
            )
        mark = Constant(b"", (0,), found.encoding)
        self.sharded[id(mark)] = found
        return mark

    def _old_tensor(self, value: Call) -> Expression | None:
        """torch.FloatTensor and its kin: the state is (storage, offset, size, stride), as __setstate__ takes it."""
        name = class_name(value)
        if not (name.startswith("torch.") and name.endswith("Tensor") and value.states):
            return None
        state = value.states[-1]
        if not isinstance(state, tuple) or len(state) < 4:
            return None
        return self._view(value, state[0], state[1], state[2], state[3])

    def _v2(self, call: Call, args: tuple[Any, ...]) -> Expression:
        return self._signed(call, self._view(call, *args[:4]), args[6] if len(args) > 6 else None)

    def _v3(self, call: Call, args: tuple[Any, ...]) -> Expression:
        dtype = dtype_of(args[6])
        if dtype is None or dtype not in DTYPES:
            raise self._unsupported(f"a tensor of the dtype {args[6]}", call.offset)
        return self._signed(call, self._view(call, *args[:4], dtype=dtype), args[7] if len(args) > 7 else None)

    def _quantized(self, call: Call, args: tuple[Any, ...]) -> Expression:
        codes = self._view(call, *args[:4], codes=True)
        rule = args[4] if isinstance(args[4], tuple) and args[4] else (None,)
        scheme = str(rule[0])
        if scheme == "torch.per_tensor_affine" and len(rule) == 3:
            scales, zeros, axis = [rule[1]], [rule[2]], None
        elif scheme == "torch.per_channel_affine" and len(rule) == 4:
            scales, zeros, axis = self._numbers(call, rule[1]), self._numbers(call, rule[2]), rule[3]
        else:
            raise self._unsupported(f"a quantized tensor of the scheme {scheme}", call.offset)
        fits = axis is None or (type(axis) is int and 0 <= axis < len(codes.shape) and len(scales) == codes.shape[axis])
        numbers = all(type(n) in (int, float) for n in scales) and all(type(n) is int for n in zeros)
        if not fits or not numbers or len(scales) != len(zeros) or any(abs(n) > 1 << 31 for n in zeros):
            raise self._broken("scales and zero points do not fit the tensor", "tensor-quantizer", call.offset, scheme)
        return Affine(codes, tuple(float(n) for n in scales), tuple(zeros), axis)

    def _numbers(self, call: Call, value: Any) -> list[Any]:
        """Scales or zero points: a list, or a tensor that is read now, since it is part of what the values are."""
        found = sequence(value)
        if found is not None:
            return list(found)
        expr = self.tensor(value, 1)
        if not isinstance(expr, Leaf) or expr.encoding not in ("F64", "F32", "I64", "I32") or expr.big:
            raise self._unsupported("scales that are no plain tensor", call.offset)
        if len(expr.shape) != 1 or expr.shape[0] > MAX_SCALES:
            raise self._broken("scales that are no vector", "tensor-quantizer", call.offset, expr.shape)
        import numpy as np

        raw = self.region.files.read(expr.file, expr.offset, expr.shape[0] * expr.stored.block_bytes)
        numbers: list[Any] = np.frombuffer(raw, expr.stored.numpy).tolist()
        return numbers

    def _flat(self, storage: Storage, offset: int) -> Expression:
        """A storage that stands where a tensor could: its elements as a vector."""
        return self._leaf(storage, (storage.n_elements,), 0, storage.dtype, offset)

    def _view(self, call: Call, source: Any, *where: Any, dtype: str | None = None, codes: bool = False) -> Expression:
        """A tensor over the storage that a call names; where: offset, size and stride."""
        return self.view(self._storage(call, source), call.offset, where, dtype=dtype, codes=codes)

    def view(
        self, storage: Storage, at: int, where: tuple[Any, ...], *, dtype: str | None = None, codes: bool = False
    ) -> Expression:
        """A tensor over a storage: a leaf where its elements lie in a row, else a strided view.

        at: where the file says so. where: offset, size and stride, as they stand in the file. dtype: of the tensor,
        where it is not the storage's. codes: a quantized dtype is what is wanted. Raises CorruptFile, UnsupportedError,
        LimitExceeded.
        """
        dtype = dtype or storage.dtype
        kind = DTYPES[dtype]
        if not kind.supported or kind.codes != codes:
            raise self._unsupported(f"a tensor of the dtype {dtype}" + (" without a scheme" if kind.codes else ""), at)
        offset, shape, strides = where[0], integers(where[1]), integers(where[2])
        if (
            shape is None
            or strides is None
            or type(offset) is not int
            or len(shape) != len(strides)
            or len(shape) > MAX_DIMS
            or min((*shape, *strides, offset), default=0) < 0
            or prod(filter(None, shape)) >= 1 << 60
        ):
            raise self._broken("a tensor of an impossible shape", "tensor-shape", at, f"{shape}, strides {strides}")
        unit = ENCODINGS[kind.encoding].block_bytes
        held = storage.n_elements * ENCODINGS[DTYPES[storage.dtype].encoding].block_bytes // unit
        n_elements = prod(shape)
        reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if n_elements and offset + reach >= held:
            raise self._broken("a tensor reaches past the end of its storage", "tensor-span", at, offset + reach)
        if n_elements * unit > EXPANDED_LIMIT + 16 * held * unit:
            raise LimitExceeded(
                "a view names its elements too often",
                code="tensor-expanded",
                path=self.region.path,
                place=f"byte {at}",
                found=f"{n_elements} elements from {held}",
                allowed="16 times the storage and 1 GiB",
            )
        if not n_elements or _in_a_row(shape, strides):
            return self._leaf(storage, shape, offset * unit if n_elements else 0, dtype, at)
        if kind.packed != 1:
            raise self._unsupported("a strided view of packed elements", at)
        return Strided(self._leaf(storage, (reach + 1, 1), offset * unit, dtype, at), 0, shape, strides)

    def _leaf(self, storage: Storage, shape: tuple[int, ...], begin: int, dtype: str, at: int) -> Expression:
        kind = DTYPES[dtype]
        if kind.packed != 1:
            shape = (*shape[:-1], shape[-1] * kind.packed) if shape else (kind.packed,)
        if storage.region is None:
            if prod(shape):
                raise UnsupportedError(
                    "a tensor without data (on the device meta)",
                    code="meta-tensor",
                    path=self.region.path,
                    place=f"byte {at}",
                )
            return Constant(b"", shape, kind.encoding)
        return Leaf(storage.region.path, storage.region.start + begin, shape, kind.encoding, storage.big)

    def _storage(self, call: Call, source: Any) -> Storage:
        found: Any = None
        if isinstance(source, Persistent):
            found = self.resolve(source)
        elif isinstance(source, Call) and source.name == "torch.storage._load_from_bytes":
            found = self.nested(source)
        elif isinstance(source, Call) and class_name(source).endswith("TypedStorage") and source.args:
            return self._storage(call, source.args[0])
        if not isinstance(found, Storage):
            raise self._broken("a tensor without a storage", "tensor-storage", call.offset, type(source).__name__)
        return found

    def _signed(self, call: Call, expr: Expression, metadata: Any) -> Expression:
        """The conj and neg bits of a lazy view, as flipped sign bits."""
        flags = entries(metadata) or {}
        part = expr.stored.block_bytes
        kind = expr.stored.element.kind
        mask = bytearray(part)
        if flags.get("neg") is True:
            signs = (part // 2 - 1, part - 1) if kind == "complex" else (part - 1,)
            for place in signs:
                mask[place] ^= 0x80
        if flags.get("conj") is True:
            mask[part - 1] ^= 0x80
        if not any(mask):
            return expr
        if kind not in ("complex", "float") or (flags.get("conj") is True and kind != "complex"):
            raise self._unsupported("a negated or conjugated view of integers", call.offset)
        return FlipBits(expr, bytes(mask))

    def _broken(self, message: str, code: str, at: int, found: object) -> CorruptFile:
        return CorruptFile(message, code=code, path=self.region.path, place=f"byte {at}", found=found)

    def _unsupported(self, what: str, at: int) -> UnsupportedError:
        return UnsupportedError(
            f"{what} cannot be expressed", code="tensor-kind", path=self.region.path, place=f"byte {at}"
        )


def _in_a_row(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


_Build = Callable[[Tensors, Call, tuple[Any, ...]], Expression]

_REBUILD: dict[str, tuple[int, _Build]] = {
    "torch._utils._rebuild_tensor": (4, lambda tensors, call, args: tensors._view(call, *args[:4])),
    "torch._utils._rebuild_tensor_v2": (4, lambda tensors, call, args: tensors._v2(call, args)),
    "torch._utils._rebuild_tensor_v3": (7, lambda tensors, call, args: tensors._v3(call, args)),
    "torch._utils._rebuild_qtensor": (5, lambda tensors, call, args: tensors._quantized(call, args)),
}
"""Function -> arguments it needs, and what they describe."""

_WRAPPERS = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_xla_tensor",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.autograd.variable.Variable",
    }
)
"""Functions whose first argument is the tensor."""

_FROM_TYPE = frozenset({"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"})

_REFUSED = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without data (on the device meta)",
    "torch._utils._rebuild_wrapper_subclass": "a wrapper subclass of Tensor",
}

_OTHERS = frozenset(
    {
        "_codecs.encode",
        "copy_reg._reconstructor",
        "copyreg._reconstructor",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.per_channel_affine",
        "torch.per_tensor_affine",
        "torch.serialization._get_layout",
        "torch.storage._load_from_bytes",
        "torch.storage.TypedStorage",
    }
)
# fmt: off
_PLAIN = frozenset({
    "bytearray", "bytes", "complex", "float", "frozenset", "int", "list", "object", "range", "set", "slice", "str",
    "tuple",
})
# fmt: on


def understood(name: Global) -> bool:
    """True for the names, each in full, that this reader gives a meaning to, and for plain built-in types."""
    full = str(name)
    module, _, last = full.rpartition(".")
    return not name.computed and (
        full in _OTHERS
        or full in _REBUILD
        or full in _WRAPPERS
        or full in _FROM_TYPE
        or full in _REFUSED
        or full in SHARD_NAMES
        or full in DCP_NAMES
        or full in ARRAY_NAMES
        or full in DICT_CLASSES
        or (module in ("builtins", "__builtin__") and last in _PLAIN)
        or (module in ("torch", "torch.storage") and (last in STORAGES or last in DTYPES))
        or (module in ("torch", "torch.cuda") and last.removesuffix("Tensor") + "Storage" in STORAGES)
        or (module == "torch.cuda" and last in STORAGES)
    )
