"""LLVM for the host: its CPU, optimisation of IR, object code, and loading that.

Everything goes through llvmlite alone; a net whose object code is in the cache is loaded without Numba.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from concatc.diagnostics import ConcatcError
from concatc.targets.cpu import llvm_worker
from concatc.targets.cpu.cache import digest
from concatc.targets.cpu.llvm_worker import binding, machine, optimized
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
    return llvm_worker.object_code(text, host.name, host.features, host.triple)


def assembly(text: str, host: Host) -> str:
    """The assembly of LLVM IR."""
    return str(machine(host.name, host.features, host.triple).emit_assembly(optimize(text, host)))


class Library:
    """Object code in memory.  It must live as long as its functions may be called."""

    def __init__(self, objects: Iterable[bytes]) -> None:
        binding()
        empty = llvm.parse_assembly("")
        self._engine = llvm.create_mcjit_compiler(empty, _new_machine())
        for data in objects:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of a function; raises :class:`ConcatcError` where there is none of that name."""
        found = int(self._engine.get_function_address(name))
        if not found:
            raise ConcatcError(f"the object code has no function {name}")
        return found


def _new_machine() -> Any:
    # The engine takes the machine over.
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(reloc="pic", codemodel="small")
