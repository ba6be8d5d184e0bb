"""What the pickle in a file of `torch.save` may name and do; see `torch_pickle`."""

# NumPy has no name for it.
BFLOAT16 = "bfloat16"
# NumPy's names for the numbers of PyTorch's storages.
_STORAGES = {
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": BFLOAT16,
    "torch.DoubleStorage": "<f8",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
# Older files name the device's as well.
STORAGES = _STORAGES | {
    name.replace("torch.", "torch.cuda."): kind for name, kind in _STORAGES.items()
}
# Under these keys most training scripts save the network's tensors, beside epoch,
# optimizer and their own arguments.
NESTED = ("state_dict", "model_state_dict", "model", "net")
# What they save beside the tensors: options, counters, measured numbers, paths.
BESIDE = frozenset(
    f"{module}.{name}"
    for modules, names in (
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        ("collections", "defaultdict Counter deque"),
        # Python's own types; the first module is their place in Python 2.
        (
            "__builtin__ builtins",
            "set frozenset list dict tuple int float complex bool str bytes bytearray "
            "slice range xrange object",
        ),
        ("_codecs", "encode"),
        ("copyreg copy_reg", "_reconstructor"),
        ("datetime", "date datetime time timedelta timezone"),
        (
            "pathlib pathlib._local",
            "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        ),
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray numpy._core.multiarray", "scalar _reconstruct"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        ("torch", "device Size float16 bfloat16 float32 float64 int64"),
        # Lightning's arguments of a network.
        (
            "pytorch_lightning.utilities.parsing lightning.pytorch.utilities.parsing "
            "lightning_fabric.utilities.data lightning.fabric.utilities.data",
            "AttributeDict",
        ),
    )
    for module in modules.split()
    for name in names.split()
)
# What torch.save writes of a dictionary of tensors and of what stands beside them.
# NEWOBJ makes an object of a class, but `find_class` gives none but harmless ones.
# Those that look a class up by themselves (INST, OBJ) or in a registry (EXT1) are not
# among them.
INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 BINFLOAT "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES "
    "SHORT_BINSTRING BINSTRING "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
    "GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
)
