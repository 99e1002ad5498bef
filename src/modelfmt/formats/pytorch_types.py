"""PyTorch's element types: the storage classes and dtypes that its files name, and the encodings they are.

Source: torch/storage.py (_dtype_to_storage_type_map, _new_dtypes) and c10/core/ScalarType.h of torch 2.13.
"""

from __future__ import annotations

import msgspec

__all__ = ["DTYPES", "STORAGES", "TORCH_NAMES", "TorchType"]


class TorchType(msgspec.Struct, frozen=True):
    """encoding: of ENCODINGS. packed: elements in one stored unit, where torch's shape counts units. codes: the values
    of a quantized tensor, which mean something only with its scale. supported: False where no encoding fits."""

    encoding: str
    packed: int = 1
    codes: bool = False
    supported: bool = True


# fmt: off
DTYPES: dict[str, TorchType] = {
    "float64": TorchType("F64"), "double": TorchType("F64"), "float32": TorchType("F32"), "float": TorchType("F32"),
    "float16": TorchType("F16"), "half": TorchType("F16"), "bfloat16": TorchType("BF16"),
    "float8_e4m3fn": TorchType("F8_E4M3"), "float8_e5m2": TorchType("F8_E5M2"),
    "float8_e4m3fnuz": TorchType("F8_E4M3FNUZ"), "float8_e5m2fnuz": TorchType("F8_E5M2FNUZ"),
    "float8_e8m0fnu": TorchType("F8_E8M0"), "float4_e2m1fn_x2": TorchType("F4", packed=2),
    "int64": TorchType("I64"), "long": TorchType("I64"), "int32": TorchType("I32"), "int": TorchType("I32"),
    "int16": TorchType("I16"), "short": TorchType("I16"), "int8": TorchType("I8"),
    "uint64": TorchType("U64"), "uint32": TorchType("U32"), "uint16": TorchType("U16"), "uint8": TorchType("U8"),
    "bool": TorchType("BOOL"), "complex32": TorchType("C32"), "chalf": TorchType("C32"),
    "complex64": TorchType("C64"), "cfloat": TorchType("C64"), "complex128": TorchType("C128"),
    "cdouble": TorchType("C128"),
    "bits8": TorchType("U8"), "bits16": TorchType("U16"), "bits1x8": TorchType("U8"), "bits2x4": TorchType("U8"),
    "bits4x2": TorchType("U8"),
    **{f"uint{n}": TorchType("U8") for n in range(1, 8)}, **{f"int{n}": TorchType("I8") for n in range(1, 8)},
    "qint8": TorchType("I8", codes=True), "quint8": TorchType("U8", codes=True),
    "qint32": TorchType("I32", codes=True),
    "quint4x2": TorchType("U8", supported=False), "quint2x4": TorchType("U8", supported=False),
}
"""dtype -> type, by the name behind `torch.`."""

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8", "_UntypedStorage": "uint8",
}
"""Storage class -> dtype; an untyped storage counts bytes."""

TORCH_NAMES: dict[str, tuple[str, str | None]] = {
    "F64": ("float64", "DoubleStorage"), "F32": ("float32", "FloatStorage"), "F16": ("float16", "HalfStorage"),
    "BF16": ("bfloat16", "BFloat16Storage"), "I64": ("int64", "LongStorage"), "I32": ("int32", "IntStorage"),
    "I16": ("int16", "ShortStorage"), "I8": ("int8", "CharStorage"), "U8": ("uint8", "ByteStorage"),
    "BOOL": ("bool", "BoolStorage"), "C64": ("complex64", "ComplexFloatStorage"),
    "C128": ("complex128", "ComplexDoubleStorage"), "C32": ("complex32", None), "U16": ("uint16", None),
    "U32": ("uint32", None), "U64": ("uint64", None), "F8_E4M3": ("float8_e4m3fn", None),
    "F8_E5M2": ("float8_e5m2", None), "F8_E4M3FNUZ": ("float8_e4m3fnuz", None),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", None), "F8_E8M0": ("float8_e8m0fnu", None), "F4": ("float4_e2m1fn_x2", None),
}
"""Encoding -> dtype and, for those that have one, storage class; the others lie in an untyped storage."""
# fmt: on
