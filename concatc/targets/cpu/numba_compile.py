"""Compiles generated Numba source to LLVM IR, all kernels of a module as one unit.

Numba's own dispatcher optimises and links every function by itself, which takes more than half of its time.  Here its
front end lowers all functions into one library that is not optimised; what comes out is text, which
:mod:`concatc.targets.cpu.native` optimises once, together with what calls it.
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concatc.ir.core import FuncOp
from concatc.ir.types import I1, INDEX, MemRefType
from concatc.loops.python_source import dynamic_strides
from concatc.targets.cpu.abi import numba_symbol

# Of the import of Numba, too: neither that nor its typing and lowering is for several threads at a time.
_LOCK = threading.RLock()


def numba_ir(source: str, path: Path, kernels: Sequence[FuncOp], functions: Mapping[str, str]) -> str:
    """LLVM IR with one function a kernel: ``i32 numba.NAME(ptr, ptr, arguments..)``; the first two are ignored.

    ``path`` is the file that holds ``source``; ``functions`` names the kernels' functions in it.
    """
    with _LOCK:
        return _lowered(source, path, kernels, functions)


def _lowered(source: str, path: Path, kernels: Sequence[FuncOp], functions: Mapping[str, str]) -> str:
    from numba.core import types

    context = numba_context()
    # The source was generated from loops a moment ago, and is run as a module is when it is imported.
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(source, str(path), "exec"), namespace)
    library = context["library"](context["codegen"], "concatc")
    names: dict[str, str] = {}
    for kernel in kernels:
        result = context["compile"](
            context["typing"],
            context["target"],
            namespace[functions[kernel.sym_name]],
            _signature(kernel, types),
            types.void,
            context["flags"],
            {},
            library=library,
            pipeline_class=context["pipeline"],
        )
        names[result.fndesc.llvm_func_name] = numba_symbol(kernel.sym_name)
    text = _renamed(str(library._final_module), names)
    return _with_noalias(text, {numba_symbol(kernel.sym_name): kernel for kernel in kernels})


def _signature(kernel: FuncOp, types: Any) -> tuple[Any, ...]:
    scalars = {"f32": types.float32, "f64": types.float64, "i8": types.int8, "i32": types.int32, "i64": types.int64}
    found: list[Any] = []
    for arg in kernel.args:
        if isinstance(arg.type, MemRefType):
            found.append(types.CPointer(scalars[arg.type.dtype]))
            found += [types.intp] * len(dynamic_strides(arg.type))
        else:
            assert arg.type in (INDEX, I1), f"a kernel takes no {arg.type}"
            found.append(types.intp if arg.type == INDEX else types.boolean)
    return tuple(found)


@functools.cache
def numba_context() -> dict[str, Any]:
    """Numba's front end, imported and ready."""
    from numba.core import codegen, registry, typed_passes, untyped_passes

    compiler: Any = importlib.import_module("numba.core.compiler")
    machinery: Any = importlib.import_module("numba.core.compiler_machinery")

    class Library(codegen.JITCodeLibrary):
        """A library that leaves its functions as they were lowered."""

        def _optimize_functions(self, ll_module: Any) -> None:
            pass

    class Pipeline(compiler.CompilerBase):  # type: ignore[misc]
        """The passes that generated kernels need: they hold no closures, no arrays and no Python objects."""

        def define_pipelines(self) -> list[Any]:
            passes = machinery.PassManager("concatc")
            for item in (
                untyped_passes.TranslateByteCode,
                untyped_passes.FixupArgs,
                untyped_passes.IRProcessing,
                untyped_passes.ReconstructSSA,
                typed_passes.NopythonTypeInference,
                typed_passes.PreLowerStripPhis,
                typed_passes.IRLegalization,
                typed_passes.NativeLowering,
                typed_passes.NoPythonBackend,
            ):
                passes.add_pass(item, item.__name__)
            passes.finalize()
            return [passes]

    flags: Any = compiler.Flags()
    for name in ("no_cpython_wrapper", "no_cfunc_wrapper", "no_compile", "release_gil"):
        setattr(flags, name, True)
    for name in ("nrt", "boundscheck"):
        setattr(flags, name, False)
    flags.error_model = "numpy"
    typing, target = registry.cpu_target.typing_context, registry.cpu_target.target_context
    typing.refresh()
    target.refresh()
    return {
        "compile": compiler.compile_extra,
        "typing": typing,
        "target": target,
        "codegen": target.codegen(),
        "library": Library,
        "pipeline": Pipeline,
        "flags": flags,
    }


def _renamed(text: str, names: dict[str, str]) -> str:
    """The IR with the kernels' own names; Numba's hold a number that counts what the process compiled before."""

    def rename(m: re.Match[str]) -> str:
        return f'@"{names[m.group(1)]}"' if m.group(1) in names else m.group(0)

    text = re.sub(r'@"?([\w.$]+)"?', rename, text)
    # Numba's environments serve exceptions that print; these kernels raise none.
    return re.sub(r"^@_ZN08NumbaEnv\S+ = .*\n", "", text, flags=re.MULTILINE)


def _with_noalias(text: str, kernels: Mapping[str, FuncOp]) -> str:
    """Mark the pointers that the loops mark: without it vector code is guarded by checks, and twice as long."""

    def mark(m: re.Match[str]) -> str:
        parameters = m.group(3).split(", ")
        at = 2  # behind Numba's own two
        arguments = kernels[m.group(2)].args
        places = {arg.attrs.get("cnet.same") for arg in arguments}  # all that lies there is reached by this pointer
        for arg in arguments:
            if isinstance(arg.type, MemRefType):
                if "cnet.noalias" in arg.attrs or arg.index in places:
                    parameters[at] = parameters[at].replace("ptr ", "ptr noalias ", 1)
                at += len(dynamic_strides(arg.type))
            at += 1
        return f"{m.group(1)}{', '.join(parameters)})"

    return re.sub(r'^(define i32 @"([^"]+)"\()(.*)\)(?= \{| #)', mark, text, flags=re.MULTILINE)
