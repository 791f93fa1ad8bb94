"""What people write who come from Python, PyTorch, Caffe or C, and what it is called here."""

from __future__ import annotations

from collections.abc import Iterable

from concatc.diagnostics import did_you_mean

# Words that start an item elsewhere.
_NET_OR_BLOCK = "a net starts with `net NAME(..) {`, a block with `block NAME(..) {`"
ITEMS = dict.fromkeys(("def", "class", "fn", "func", "function", "module", "model", "network"), _NET_OR_BLOCK) | {
    "from": '`import "file.cnet"` takes the blocks of another file',
    "include": '`import "file.cnet"` takes the blocks of another file',
    "const": "constants are dims: `net NAME(k = 3) {`",
    "let": "names are bound in nets and blocks",
}

# Words that start a statement elsewhere.
STATEMENTS = {
    "print": "nothing is printed while a net is built; `concatc summary` shows its shapes",
    "while": "there is only `for i in 0..n { }`: a loop is written out when the net is built",
    "def": "a block stands outside of nets: `block NAME(..) { }`",
    "class": "a block stands outside of nets: `block NAME(..) { }`",
    "let": "a name is bound as it stands: `h = ..`",
    "var": "a name is bound as it stands: `h = ..`",
    "const": "a name is bound as it stands: `h = ..`",
    "from": "imports stand outside of nets",
    "assert": "sizes are checked when the net is built",
    "pass": "a body may be empty: `{ }`",
    "label": "labels are an input of integers: `input label: i32[n]`",
    "unless": "write `if not`",
}

# Ops and functions by other names.
_CALLEES = {
    "linear": ("fc", "dense", "innerproduct", "inner_product", "fullyconnected", "fully_connected"),
    "conv": ("conv2d", "convolution", "convolution2d"),
    "conv_transpose": ("convtranspose2d", "conv_transpose2d", "deconvolution", "deconv", "conv2dtranspose"),
    "max_pool": ("maxpool", "maxpool2d", "max_pool2d", "maxpooling2d", "pool", "pooling"),
    "avg_pool": ("avgpool", "avgpool2d", "avg_pool2d", "averagepooling2d", "average_pool", "mean_pool"),
    "global_avg_pool": ("adaptiveavgpool2d", "adaptive_avg_pool2d", "globalaveragepooling2d", "gap"),
    "global_max_pool": ("adaptivemaxpool2d", "globalmaxpooling2d"),
    "batch_norm": ("batchnorm", "batchnorm2d", "batchnorm1d", "batchnormalization", "bn"),
    "layer_norm": ("layernorm", "layernormalization"),
    "leaky_relu": ("leakyrelu", "lrelu"),
    "concat": ("cat", "concatenate", "stack", "hstack", "vstack"),
    "slice": ("chunk", "narrow"),
    "reshape": ("view", "unsqueeze", "squeeze"),
    "transpose": ("permute", "swapaxes"),
    "softmax_loss": ("cross_entropy", "crossentropyloss", "cross_entropy_loss", "softmaxwithloss", "nll_loss"),
    "sigmoid_loss": ("bce", "bceloss", "bcewithlogitsloss", "sigmoidcrossentropyloss", "binary_cross_entropy"),
    "mse_loss": ("mse", "mseloss", "l2_loss", "euclideanloss", "euclidean_loss"),
    "add": ("eltwise",),
    "matmul": ("bmm", "mm", "dot", "gemm"),
    "embedding": ("embed", "lookup"),
    "upsample": ("interpolate", "upsampling2d", "resize"),
    "l2_normalize": ("normalize",),
    "div": ("divide",),
    "mul": ("multiply",),
    "square": ("sqr",),
    "msra": ("he", "kaiming", "he_normal", "kaiming_normal"),
    "xavier": ("glorot", "glorot_uniform", "xavier_uniform"),
    "gaussian": ("normal", "randn"),
}
_CALLEE = {other: name for name, others in _CALLEES.items() for other in others}
_CALLEE_ADVICE = {
    "range": "a range is written `0..n`",
    "arange": "a range is written `0..n`",
    "print": STATEMENTS["print"],
    "sequential": "ops are chained by a pipeline: `x |> conv(8, kernel=3) |> relu`",
    "identity": "use the blob itself",
    "float": "element types stand in declarations: `input x: f32[n]`",
    "tensor": "a constant is a number: `x * 0.5`; an array is an `input` or a `state`",
    "zeros": "a constant is a number: `x * 0.5`, an initial value `constant(0)`; an array is an `input` or a `state`",
    "ones": "a constant is a number: `x * 0.5`, an initial value `constant(1)`; an array is an `input` or a `state`",
    "accumulate": "`x + y` adds blobs; the compiler makes the sums of gradients",
    "argmax": "scores are outputs, and their `np.argmax` is the caller's; `accuracy(scores, label)` counts hits",
    "split": "a blob may be read often as it is; `slice(x, axis=1, parts=2)` cuts one",
}

# Attributes by other names: the first that the op has is meant.
_ATTRIBUTES = {
    "kernel_size": ("kernel",),
    "kernel_shape": ("kernel",),
    "filter_size": ("kernel",),
    "ksize": ("kernel",),
    "padding": ("pad",),
    "strides": ("stride",),
    "dilations": ("dilation",),
    "group": ("groups",),
    "dim": ("axis", "axes"),
    "dims": ("axes", "axis"),
    "axes": ("axis",),
    "axis": ("axes",),
    "out_channels": ("channels",),
    "filters": ("channels",),
    "out_features": ("size",),
    "units": ("size",),
    "num_output": ("size", "channels"),
    "channels": ("size",),
    "size": ("channels", "shape"),
    "use_bias": ("bias",),
    "bias_term": ("bias",),
    "epsilon": ("eps",),
    "rate": ("p",),
    "ratio": ("p",),
    "prob": ("p",),
    "dropout_ratio": ("p",),
    "slope": ("negative_slope",),
    "alpha": ("negative_slope",),
    "keepdim": ("keepdims",),
    "local_size": ("window",),
    "ignore_index": ("ignore",),
    "ignore_label": ("ignore",),
    "scale_factor": ("factor",),
    "num_embeddings": ("vocab",),
    "embedding_dim": ("dim",),
    "ceil_mode": ("ceil",),
    "chunks": ("parts",),
    "weight_filler": ("weight_init",),
    "bias_filler": ("bias_init",),
    "kernel_initializer": ("weight_init",),
}
_ATTRIBUTE_ADVICE = {
    "in_channels": "the channels of the input are known from its shape",
    "in_features": "the features of the input are known from its shape",
    "input_shape": "the shape of the input is known",
    "inplace": "the compiler decides what is computed in place",
    "activation": "put the activation behind it: `.. |> relu`",
    "affine": "`weight=false` and `bias=false` leave these parameters out",
    "name": "a label names a call: `conv(..) @name`",
    "dtype": "the element type follows from the data",
    "lr": "each parameter has a factor of its own: `weight_lr=0.1`, `bias_lr=2`",
    "decay": "each parameter has a factor of its own: `weight_decay=0`, `bias_decay=0`",
    "training": "`train` is the phase; ops know it",
}


# Element types by other names.
_TYPES = {
    "f32": ("float", "single", "float32", "fp32", "real"),
    "f64": ("double", "float64", "fp64"),
    "i32": ("int", "integer", "int32", "uint8", "u8", "int8", "i8", "int16", "i16", "bool", "i1", "boolean"),
    "i64": ("long", "int64"),
}
_TYPE = {other: name for name, others in _TYPES.items() for other in others}
_HALVES = ("f16", "bf16", "half", "float16", "bfloat16", "fp16", "f8", "tf32")


def type_help(name: str, known: Iterable[str]) -> str | None:
    """What may be meant by an unknown element type."""
    known, lower = list(known), name.lower()
    if lower in _HALVES:
        return "there is no half precision: numbers are `f32`, or `f64`"
    return f"did you mean `{_TYPE[lower]}`?" if _TYPE.get(lower) in known else did_you_mean(name, known)


def meant_callee(name: str, known: Iterable[str]) -> str | None:
    """The op or function that is called ``name`` elsewhere."""
    known = list(known)
    lower = name.lower()
    meant = lower if lower in known else _CALLEE.get(lower)
    return meant if meant in known else None


def callee_help(name: str, known: Iterable[str]) -> str | None:
    """What may be meant by a call of an unknown ``name``."""
    known = list(known)
    lower = name.lower()
    meant = meant_callee(name, known)
    if meant is not None:
        return f"did you mean `{meant}`?"
    return _CALLEE_ADVICE.get(lower) or did_you_mean(name, known) or did_you_mean(lower, known)


def attribute_help(name: str, known: Iterable[str]) -> str | None:
    """What may be meant by an unknown attribute ``name`` of an op that has ``known``."""
    known = list(known)
    meant = next((other for other in _ATTRIBUTES.get(name, ()) if other in known), None)
    if meant is not None:
        return f"did you mean `{meant}`?"
    return _ATTRIBUTE_ADVICE.get(name) or did_you_mean(name, known)


def name_help(name: str, known: Iterable[str]) -> str | None:
    """What may be meant by an unknown ``name`` where a value is read."""
    if name in ("True", "False"):
        return f"did you mean `{name.lower()}`?"
    if name in ("None", "none", "null", "nil"):
        return "there is no empty value: leave the argument out; `bias=false` leaves out a parameter"
    return did_you_mean(name, [*known, "true", "false"])
