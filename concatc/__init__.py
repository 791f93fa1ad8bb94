"""concatc: a compiler for neural networks in which concat and reuse are explicit, and then free.

net = concatc.compile("examples/thread.cnet", dims={"x": 64})
net.init(seed=0)
losses = net.train_step(a=a, b=b, label=label, optimizer=concatc.SGD(lr=0.1))
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from concatc.diagnostics import ConcatcError, ConcatcWarning, UsageError
from concatc.version import __version__ as __version__

# The value of a dim or other parameter of a net: `net f(n = 64, reduction = "sum")`.
Dim = int | float | str | bool

if TYPE_CHECKING:
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.optimizers import SGD, Adam, Optimizer

__all__ = [
    "SGD",
    "Adam",
    "CompiledModule",
    "ConcatcError",
    "ConcatcWarning",
    "Optimizer",
    "UsageError",
    "compile",
    "compile_source",
    "load",
]


# Imported when they are first asked for: `import concatc` takes a few milliseconds.
_LAZY = {
    "CompiledModule": "concatc.runtime.module",
    "SGD": "concatc.runtime.optimizers",
    "Adam": "concatc.runtime.optimizers",
    "Optimizer": "concatc.runtime.optimizers",
}


def compile(
    path: str | os.PathLike[str],
    *,
    dims: Mapping[str, Dim] | None = None,
    target: str = "cpu",
    net: str | None = None,
    keep: Iterable[str] = (),
    input_grads: bool = False,
    output_grads: bool | Iterable[str] = False,
    freeze: Iterable[str] = (),
    dtype: str = "f32",
    recompute: Literal["none", "auto", "max"] = "auto",
    precision: Literal["exact", "high", "fast"] = "high",
    max_memory: int | str | None = None,
    verify_each: bool = False,
    threads: int | None = None,
) -> CompiledModule:
    """Compile a net from a ``.cnet`` file, or from a dump (``.mlir``) of any level.

    ``dims`` overrides dims of the net (``{"x": 64}``); ``net`` chooses one where the file holds several; ``target`` is
    ``cpu``, ``cuda`` or ``reference``; ``keep`` names blobs whose value and gradient stay readable in ``blobs``;
    ``input_grads=True`` lets ``backward`` return the gradients of inputs; ``output_grads`` names outputs whose
    gradients are given to ``backward`` (True: all float ones); ``freeze`` names parameters that are not trained, or
    what their paths begin with (``["stem"]``); ``dtype="f64"`` computes in double precision;
    ``recompute`` says what the backward pass may compute again rather than keep: ``none``, ``auto`` (what is cheap) or
    ``max``; ``precision`` says by which algorithms convolutions may be computed: ``exact`` (sums of products as
    written, of weights that inference may have folded batch norm into), ``high`` (also Winograd's, where their errors
    are no larger) or ``fast`` (errors some ten times as large), and on ``cuda`` how products are computed: in f32, as
    three products of tf32, or as one; ``max_memory`` (bytes, or text such as ``"64MiB"``) is a budget for each phase:
    parameters, gradients, states, inputs, outputs, all that lies between them and what an optimizer holds; what each
    thread more than one needs for itself comes on top (``memory`` says how much).  It is kept by more recomputation and
    other orders of kernels, and by ``exact`` algorithms, which need the least scratch memory; ``verify_each`` checks
    the IR after every pass; ``threads`` is how many threads run the net (without it ``CONCATC_NUM_THREADS``, else the
    cores that the process may use); no result depends on it.  Raises :class:`ConcatcError` with all errors of the file
    at once, :class:`UsageError` where the call is wrong or no plan keeps the budget.
    """
    from concatc.frontend.source import is_dump, read, read_dump

    filename = os.fspath(_checked("path", path, (str, os.PathLike), "a path"))
    text = read_dump(filename) if is_dump(filename) else read(filename)
    return _compiled(
        text,
        filename,
        dims,
        target,
        net,
        keep,
        input_grads,
        output_grads,
        freeze,
        dtype,
        recompute,
        precision,
        max_memory,
        verify_each,
        threads,
    )


def compile_source(
    text: str,
    *,
    filename: str = "<source>",
    dims: Mapping[str, Dim] | None = None,
    target: str = "cpu",
    net: str | None = None,
    keep: Iterable[str] = (),
    input_grads: bool = False,
    output_grads: bool | Iterable[str] = False,
    freeze: Iterable[str] = (),
    dtype: str = "f32",
    recompute: Literal["none", "auto", "max"] = "auto",
    precision: Literal["exact", "high", "fast"] = "high",
    max_memory: int | str | None = None,
    verify_each: bool = False,
    threads: int | None = None,
) -> CompiledModule:
    """Compile a net from its text; ``filename`` stands in messages, and imports are relative to it.

    Everything else is as in :func:`compile`.
    """
    _checked("text", text, str, "the text of a net")
    return _compiled(
        text,
        _checked("filename", filename, str, "a text"),
        dims,
        target,
        net,
        keep,
        input_grads,
        output_grads,
        freeze,
        dtype,
        recompute,
        precision,
        max_memory,
        verify_each,
        threads,
    )


def _compiled(
    text: str,
    filename: str,
    dims: Mapping[str, Dim] | None,
    target: str,
    net: str | None,
    keep: Iterable[str],
    input_grads: bool,
    output_grads: bool | Iterable[str],
    freeze: Iterable[str],
    dtype: str,
    recompute: Literal["none", "auto", "max"],
    precision: Literal["exact", "high", "fast"],
    max_memory: int | str | None,
    verify_each: bool,
    threads: int | None,
) -> CompiledModule:
    from concatc.frontend.source import is_dump_text
    from concatc.opening import open_net
    from concatc.options import Options
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.threads import thread_count
    from concatc.sizes import parse_bytes

    threads = thread_count(threads)  # nonsense is an error before the work
    with_grads = output_grads if isinstance(output_grads, bool) else _names("output_grads", output_grads, "outputs")
    options = Options(
        target=target,
        dims=dict(_checked("dims", {} if dims is None else dims, Mapping, 'a dict, such as {"n": 64}')),
        net=net,
        keep=_names("keep", keep, "blobs"),
        input_grads=input_grads,
        output_grads=with_grads,
        freeze=_names("freeze", freeze, "parameters"),
        dtype=dtype,
        recompute=recompute,
        precision=precision,
        max_memory=None if max_memory is None else parse_bytes(max_memory, "max_memory"),
        verify_each=verify_each,
    )
    if is_dump_text(text, filename):
        from concatc.edited import EditedDump

        return CompiledModule(EditedDump(text, filename, options), threads)
    opened = open_net(text, filename, options)
    for warning in opened.warnings:
        # Level 3 is the line that called compile or compile_source.
        warnings.warn(warning.render({filename: text}), ConcatcWarning, stacklevel=3)
    return CompiledModule(opened, threads)


def _names(argument: str, value: Iterable[str], of: str) -> tuple[str, ...]:
    """One name, or several."""
    wanted = f'names of {of}, such as ["h"]'
    names = (value,) if isinstance(value, str) else tuple(_checked(argument, value, Iterable, wanted))
    for name in names:
        _checked(argument, name, str, wanted)
    return names


def _checked(name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> Any:
    if not isinstance(value, kinds):
        raise UsageError(f"{name} must be {wanted}, not {value!r}")
    return value


def load(directory: str | os.PathLike[str], *, threads: int | None = None) -> CompiledModule:
    """Load a module that ``concatc compile -o DIR`` wrote; ``threads`` is as in :func:`compile`.

    A written module holds native code, which runs: load only what you trust.  Weights are apart and never run code.
    Raises :class:`UsageError` where the directory is incomplete, changed, of another version or for another CPU.
    """
    from concatc.written import load_module

    return load_module(Path(_checked("directory", directory, (str, os.PathLike), "a path")), threads)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    from concatc.diagnostics import did_you_mean

    hint = did_you_mean(name, __all__) or "nets are texts: concatc.compile reads a file, concatc.compile_source a text"
    raise AttributeError(f"module 'concatc' has no attribute {name!r}" + ("" if name.startswith("_") else f"; {hint}"))


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__version__"])
