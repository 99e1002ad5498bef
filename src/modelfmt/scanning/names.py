"""What a name in a pickle means for whoever unpickles it: harmless, unknown, or dangerous.

There is no list of bad names to outrun. Harmless are names, each in full, that are known; every other name of the
standard library, and every function of a package that a pickle calls, is dangerous; classes of packages are unknown,
since making one imports their code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from modelfmt.formats.pytorch_shards import SHARDED_TENSORS
from modelfmt.formats.pytorch_tensors import understood
from modelfmt.pickles.machine import Pickle
from modelfmt.pickles.opcodes import EXTENSIONS
from modelfmt.pickles.tree import class_name
from modelfmt.pickles.values import Blob, Call, Dict, Global, Persistent, Set
from modelfmt.scanning.findings import DANGEROUS, SAFE, UNKNOWN, Finding

__all__ = ["HARMLESS", "judged", "proper", "verdict_of"]

# fmt: off
HARMLESS = frozenset({
    "argparse.Namespace", "array._array_reconstructor", "array.array", "collections.deque", "datetime.date",
    "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone", "decimal.Decimal",
    "fractions.Fraction", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath", "types.SimpleNamespace",
    "uuid.UUID",
    "numpy.random._pickle.__bit_generator_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__randomstate_ctor", "numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64",
    "joblib.numpy_pickle.NumpyArrayWrapper", "joblib.numpy_pickle.NDArrayWrapper",
    "torch.jit._pickle.build_boollist", "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_intlist", "torch.jit._pickle.build_tensor_from_id", "torch.jit._pickle.build_tensorlist",
    "torch.jit._pickle.restore_type_tag", "numpy.bool_", "numpy.bytes_", "numpy.complex64", "numpy.complex128",
    "numpy.float16", "numpy.float32", "numpy.float64", "numpy.int8", "numpy.int16", "numpy.int32", "numpy.int64",
    "numpy.str_", "numpy.uint8", "numpy.uint16", "numpy.uint32", "numpy.uint64",
})
"""Names outside PyTorch's and NumPy's tables whose objects hold data and whose making does nothing else."""

_RUNNERS = frozenset({
    "aiohttp", "cffi", "cloudpickle", "dill", "fabric", "httpx", "invoke", "IPython", "joblib", "nltk", "paramiko",
    "pip", "pexpect", "requests", "sh", "setuptools", "urllib3",
})
"""Packages whose classes run code or reach the network."""

_OLD_STANDARD = frozenset({
    "__builtin__", "cPickle", "cStringIO", "commands", "copy_reg", "httplib", "popen2", "urllib2", "distutils", "imp",
    "lib2to3", "telnetlib", "asyncore", "asynchat", "smtpd", "_xxsubinterpreters", "_interpreters", "test", "nt",
    "posix", "_osx_support", "_aix_support", "_pyrepl",
})
"""Modules that other versions of Python, or other systems, have."""
# fmt: on
_STANDARD = frozenset(sys.stdlib_module_names) | _OLD_STANDARD
_FILLED = frozenset(
    f"{module}.{name}" for module in ("builtins", "__builtin__")
    for name in ("bytes", "bytearray", "list", "tuple", "set", "frozenset")
) | {"collections.deque"}  # fmt: skip
_RANGES = ("builtins.range", "__builtin__.range", "__builtin__.xrange")
MAX_MADE = 1 << 28
_GETATTR = ("builtins.getattr", "__builtin__.getattr")
_SHOWN = 80


def judged(pickle: Pickle, member: str, *, script: bool = False) -> Iterator[Finding]:
    """What a pickle would do that is not known to be harmless. script: the pickle of a TorchScript archive, which torch
    reads without Python; its own types are harmless there."""
    calls: dict[int, Call] = {}
    reaching = {id(call.function) for call in pickle.calls if call.name in _GETATTR and not _known_attribute(call)}
    for call in pickle.calls:
        function = call.function
        if isinstance(function, Persistent) and class_name(call) != "?":
            continue
        if isinstance(function, Call) and function.name in _GETATTR and _known_attribute(function):
            continue
        if not isinstance(function, Global):
            reason = "what is called is itself computed"
            yield Finding(DANGEROUS, "computed-call", reason, call.offset, member, "?", brief(call.args))
            continue
        calls.setdefault(id(function), call)
        if str(function) in _FILLED and _length(call.args) > MAX_MADE:
            reason = "makes something so large that a loader runs out of memory"
            yield Finding(DANGEROUS, "bomb", reason, call.offset, member, str(function), brief(call.args))
    for name in pickle.globals_:
        called = calls.get(id(name))
        if called is not None and called.name in _GETATTR and id(name) not in reaching:
            continue
        verdict, rule, reason = verdict_of(name, called)
        if verdict == SAFE or (script and name.module.split(".")[0] == "__torch__"):
            continue
        place = name.offset if called is None else called.offset
        yield Finding(verdict, rule, reason, place, member, str(name), "" if called is None else brief(called.args))
    if pickle.damage is not None:
        reason = f"not looked at beyond this byte: {pickle.damage.message}"
        yield Finding(UNKNOWN, "damaged", reason, pickle.end, member)


def verdict_of(name: Global, call: Call | None) -> tuple[str, str, str]:
    """(verdict, rule, reason) for one name and the first call of it."""
    if name.computed:
        return DANGEROUS, "computed-name", "the name is computed while loading"
    if name.module == EXTENSIONS:
        return DANGEROUS, "extension", "a name that only a registry knows"
    changed = call is not None and call.opcode == "BUILD"
    if not changed and (understood(name) or str(name) in HARMLESS):
        return SAFE, "", ""
    if not proper(name):
        return DANGEROUS, "odd-name", "no proper name: another reader may see another one"
    root = name.module.split(".")[0]
    if root in _STANDARD:
        return DANGEROUS, "standard-library", "a name of the standard library that is not known to be harmless"
    if root in _RUNNERS:
        return DANGEROUS, "runner", "a package that runs code or reaches the network"
    if changed:
        return DANGEROUS, "class-state", "a class would be changed"
    last = name.name.rpartition(".")[2]
    if "." in name.name and not all(part[:1].isupper() for part in name.name.split(".")):
        return DANGEROUS, "attribute-path", "a name that reaches through attributes"
    if call is not None and not last.lstrip("_")[:1].isupper():
        return DANGEROUS, "call", "a function of a package would be called"
    return UNKNOWN, "import", "code of a package would be imported"


def _known_attribute(call: Call) -> bool:
    """The one class that honest pickles before protocol 4 reach through another: a record of ranks in ShardedTensor."""
    args = call.args if isinstance(call.args, tuple) else ()
    return len(args) == 2 and str(args[0]) in SHARDED_TENSORS and args[1] == "ProcessGroupState" and not call.kwargs


def _length(args: object) -> int:
    """Elements of what bytes(n), list(range(n)) and their kin make, as far as the arguments say so."""
    first = args[0] if isinstance(args, tuple) and args else None
    if isinstance(first, Call) and first.name in _RANGES and isinstance(first.args, tuple):
        first = max((n for n in first.args if isinstance(n, int)), default=0)
    return first if type(first) is int else 0


def proper(name: Global) -> bool:
    """True for a name that consists of identifiers and dots."""
    return all(part.isidentifier() and part.isascii() for part in str(name).split("."))


def brief(value: object, depth: int = 2) -> str:
    """A value of a tree, shortened.

    >>> brief(("ls", [1, 2.5, None]))
    "('ls', [1, 2.5, None])"
    """
    if isinstance(value, str | bytes):
        text = repr(value[:_SHOWN])
    elif value is None or isinstance(value, bool | float):
        text = repr(value)
    elif isinstance(value, int):
        text = repr(value) if -(1 << 64) < value < 1 << 64 else "..."
    elif isinstance(value, Global):
        text = str(value)
    elif isinstance(value, Call):
        text = f"{value.name}{brief(value.args, depth - 1)}" if depth else f"{value.name}(...)"
    elif isinstance(value, Blob):
        text = f"<{len(value)} bytes>"
    elif isinstance(value, list | tuple) and depth:
        inner = ", ".join(brief(item, depth - 1) for item in value[:6]) + (", ..." if len(value) > 6 else "")
        text = f"[{inner}]" if isinstance(value, list) else f"({inner})"
    else:
        text = "{...}" if isinstance(value, Dict | Set) else "..."
    return text if len(text) <= 2 * _SHOWN else text[: 2 * _SHOWN] + "..."
