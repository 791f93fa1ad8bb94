"""LLVM IR to object code: target machine and passes."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def binding() -> Any:
    """llvmlite, ready to generate code for this machine."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Else LLVM carries what neighbouring taps load from one iteration to the next: twenty scalars in registers that the
    # sums need, and a copy of each an iteration, where a broadcast load is free.
    llvm.set_option("concatc", "-enable-load-pre=false")
    return llvm


@functools.cache
def machine(cpu: str, features: str, triple: str = "") -> Any:
    """What generates code for a CPU, of this process's architecture unless a triple names another."""
    llvm = binding()
    if triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple or llvm.get_process_triple())
    return target.create_target_machine(cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small")


def optimized(text: str, cpu: str, features: str, triple: str = "") -> Any:
    """Parse LLVM IR, verify it, and run the standard passes: of a function that is alone few, and those simplify."""
    llvm = binding()
    module = llvm.parse_assembly(text)
    module.verify()
    defined = [function for function in module.functions if not function.is_declaration]
    # What is made for one function is written as it is to run: more passes are a third of the time, and move nothing.
    options = llvm.create_pipeline_tuning_options(speed_level=1 if len(defined) == 1 else 2)
    options.loop_vectorization = True
    # Contractions are unrolled already, and short loops gain nothing: a fifth of the time of compiling for no speed.
    options.loop_unrolling = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(cpu, features, triple), options)
    if len(defined) == 1:
        # A sum in a nest calls nothing that could be inlined and is written in vectors.  Passes that look for more of
        # that compare every access of a tile with every other: half of the time, for code that is no faster.
        builder.getFunctionPassManager().run(defined[0], builder)
    else:
        builder.getModulePassManager().run(module, builder)
    return module


def object_code(text: str, cpu: str, features: str, triple: str = "") -> bytes:
    """The object code of LLVM IR."""
    return bytes(machine(cpu, features, triple).emit_object(optimized(text, cpu, features, triple)))
