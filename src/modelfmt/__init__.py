"""modelfmt turns any machine-learning model format into any other, in one pass, without executing anything from a
model.

The public names, resolved when they are first used: importing this package loads nothing else.

>>> import modelfmt
>>> modelfmt.parse_size("2G")
2000000000
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modelfmt import imatrix as imatrix
    from modelfmt.conversion import convert as convert
    from modelfmt.conversion import parse_size as parse_size
    from modelfmt.conversion import plan as plan
    from modelfmt.errors import *  # noqa: F403  the whole tree is public
    from modelfmt.executor import finalize as finalize
    from modelfmt.executor import run as run
    from modelfmt.formats.onnx_bridge import from_onnx_ir as from_onnx_ir
    from modelfmt.formats.onnx_bridge import to_onnx_ir as to_onnx_ir
    from modelfmt.inspection import ArchitectureInfo as ArchitectureInfo
    from modelfmt.inspection import ModelInfo as ModelInfo
    from modelfmt.inspection import architectures as architectures
    from modelfmt.inspection import formats as formats
    from modelfmt.inspection import inspect as inspect
    from modelfmt.ir.model import Model as Model
    from modelfmt.ir.tensor import Tensor as Tensor
    from modelfmt.plans import Plan as Plan
    from modelfmt.quant.api import dequantize as dequantize
    from modelfmt.quant.api import quantize as quantize
    from modelfmt.quant.api import types as types
    from modelfmt.quant.recipes import Recipe as Recipe
    from modelfmt.report import Done as Done
    from modelfmt.report import Event as Event
    from modelfmt.report import PlanReady as PlanReady
    from modelfmt.report import Progress as Progress
    from modelfmt.report import Report as Report
    from modelfmt.report import TensorDone as TensorDone
    from modelfmt.scanning import ScanReport as ScanReport
    from modelfmt.scanning import scan as scan
    from modelfmt.sources import open as open  # noqa: A004  the public name, as in PIL and tarfile
    from modelfmt.verifying import Verification as Verification
    from modelfmt.verifying import verify as verify

_PLACES = {
    "conversion": ("convert", "parse_size", "plan"),
    "errors": (
        "ArrayError",
        "BadValue",
        "CorruptFile",
        "DestinationExists",
        "LimitExceeded",
        "LossyError",
        "ModelfmtError",
        "NoSpace",
        "OutputError",
        "ShapeError",
        "SourceMissing",
        "UnsafePath",
        "UnsupportedError",
        "UsageError",
    ),
    "formats.onnx_bridge": ("from_onnx_ir", "to_onnx_ir"),
    "inspection": ("ArchitectureInfo", "ModelInfo", "architectures", "formats", "inspect"),
    "ir.model": ("Model",),
    "ir.tensor": ("Tensor",),
    "plans": ("Plan",),
    "quant.recipes": ("Recipe",),
    "quant.api": ("dequantize", "quantize", "types"),
    "report": ("Done", "Event", "PlanReady", "Progress", "Report", "TensorDone"),
    "executor": ("finalize", "run"),
    "scanning": ("ScanReport", "scan"),
    "sources": ("open",),
    "verifying": ("Verification", "verify"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
_ROOMS = ("imatrix",)

__all__ = sorted([*_MODULES, *_ROOMS, "__version__"])


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"modelfmt.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'modelfmt' has no attribute {name!r}")
    value = getattr(import_module(f"modelfmt.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
