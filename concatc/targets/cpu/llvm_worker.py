"""LLVM IR to object code: called in this process, or run as a program that compiles what it reads from a pipe.

    python -I -S llvm_worker.py DIR CPU FEATURES        DIR holds llvmlite
      stdin    bytes of IR (u64), IR, ..                stdout    status (u8: 0 done), bytes (u64), object code, ..

A process compiles one module at a time, for llvmlite holds one lock; `workers.py` runs several.  So this file imports
llvmlite and nothing else, and only when it is needed: a worker is ready in a tenth of a second.
"""

from __future__ import annotations

import functools
import struct
import sys
from typing import Any, BinaryIO

DONE, FAILED = 0, 1
REQUEST, ANSWER = struct.Struct("<Q"), struct.Struct("<BQ")


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
    """Parse LLVM IR, verify it, and run the standard passes: of a function that is alone those that simplify."""
    llvm = binding()
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    # Contractions are unrolled already, and short loops gain nothing: a fifth of the time of compiling for no speed.
    options.loop_unrolling = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(cpu, features, triple), options)
    defined = [function for function in module.functions if not function.is_declaration]
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


def serve(requests: BinaryIO, answers: BinaryIO, cpu: str, features: str) -> None:
    """Compile until the pipe ends.  What cannot be compiled is left to who asked, whose error then says why."""
    while (head := requests.read(REQUEST.size)) and len(head) == REQUEST.size:
        (count,) = REQUEST.unpack(head)
        text = requests.read(count)
        if len(text) < count:
            return
        try:
            status, made = DONE, object_code(text.decode(), cpu, features)
        except Exception:
            status, made = FAILED, b""
        answers.write(ANSWER.pack(status, len(made)) + made)
        answers.flush()


def main() -> None:
    """Run as a program."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all; who asked ends the pipe
    directory, cpu, features = sys.argv[1:]
    sys.path.append(directory)
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that is printed may stand between answers
    serve(sys.stdin.buffer, answers, cpu, features)


if __name__ == "__main__":
    main()
