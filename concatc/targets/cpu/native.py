"""LLVM for the host: its CPU, optimisation of IR, object code, and loading that.

Everything goes through llvmlite alone; a net whose object code is in the cache is loaded without Numba.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from concatc.diagnostics import ConcatcError
from concatc.targets.cache import digest
from concatc.targets.cpu import llvm_code
from concatc.targets.cpu.llvm_code import binding, machine, optimized
from concatc.version import source_digest


@dataclass(frozen=True)
class Host:
    """The CPU that code is generated for.

    ``vector_bytes`` is the width of a vector register, ``registers`` how many there are.  ``triple`` names another
    architecture or system as LLVM does; empty, it is that of this process.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int
    fma: bool
    masked: bool  # loads and stores under a mask are single instructions
    triple: str = ""
    embedded: bool = False  # a multiply-add reads one element of memory for all lanes


@functools.cache
def host() -> Host:
    """This machine."""
    binding()
    flags = llvm.get_host_cpu_features()
    features = ",".join(sorted(flags.flatten().split(",")))
    wide = bool(flags.get("avx512f")) and bool(flags.get("avx512vl"))
    avx = bool(flags.get("avx"))
    return Host(
        name=llvm.get_host_cpu_name(),
        features=features,
        vector_bytes=64 if wide else 32 if avx else 16,
        registers=32 if wide or not llvm.get_process_triple().startswith("x86_64") else 16,
        fma=bool(flags.get("fma")) or not llvm.get_process_triple().startswith("x86_64"),
        masked=avx,
        embedded=wide,
    )


def triple() -> str:
    """The architecture and system of this machine, as LLVM names it: ``x86_64-unknown-linux-gnu``."""
    return str(llvm.get_process_triple())


@functools.cache
def build_id(machine: Host) -> str:
    """What generated code depends on besides its source: CPU, versions, and the generator itself."""
    from importlib import metadata  # code that was compiled before is loaded without it

    versions = [f"{name} {metadata.version(name)}" for name in ("llvmlite", "numba")]
    return digest(llvm.get_process_triple(), repr(machine), *versions, source_digest("targets/cpu"))


def optimize(text: str, host: Host) -> Any:
    """Parse LLVM IR, verify it, and run the standard passes."""
    return optimized(text, host.name, host.features, host.triple)


def link(main: str, *others: str) -> str:
    """One module of several; functions that only the others call become private to it."""
    binding()
    module = llvm.parse_assembly(main)
    inner = [f.name for f in module.functions if not f.is_declaration]
    for other in others:
        module.link_in(llvm.parse_assembly(other))
    for name in inner:
        module.get_function(name).linkage = llvm.Linkage.internal
    return str(module)


def object_code(text: str, host: Host) -> bytes:
    """The object code of LLVM IR, compiled in this process."""
    return llvm_code.object_code(text, host.name, host.features, host.triple)


def assembly(text: str, host: Host) -> str:
    """The assembly of LLVM IR."""
    return str(machine(host.name, host.features, host.triple).emit_assembly(optimize(text, host)))


class Library:
    """Object code in memory, with the functions of ``names``.  It must live as long as these may be called.

    Every object file is laid out in one block: code finds its constants within 2 GiB, as the small code model of
    x86-64 asks for, however scattered the free memory of the process is.  Raises :class:`ConcatcError` where the code
    is broken, or has no function of a name.
    """

    _numbers = itertools.count()

    def __init__(self, objects: Iterable[bytes], names: Iterable[str]) -> None:
        linker = _linker()
        builder = llvm.JITLibraryBuilder().add_current_process()
        for data in objects:
            builder.add_object_img(data)
        for name in names:
            builder.export_symbol(name)
        try:
            self._functions = builder.link(linker, f"library {next(self._numbers)}")
        except RuntimeError as error:
            raise ConcatcError(f"the object code cannot be loaded: {error}") from None

    def address(self, name: str) -> int:
        """The address of a function of ``names``."""
        return int(self._functions[name])


@functools.cache
def _linker() -> Any:
    """What links all object code of this process."""
    binding()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(reloc="pic", codemodel="small")
    return llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
