"""A program that makes object code of the units that it reads from a pipe, as recipes (`units.py`).

    python -I -S unit_worker.py HOST DIR ..     the CPU as JSON; where concatc, llvmlite, NumPy and Numba are
      stdin    bytes of a recipe (u64), recipe, ..        stdout    status (u8: 0 done), bytes (u64), object code, ..

Loops are read, LLVM IR is generated and compiled here, so the process that compiles a net has no part in it; with the
kind ``numba`` Numba's front end, too.  A recipe says the key that its unit must have.  With the kind ``aside`` it is no
unit: who asks names a module of a floor above, which answers.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from concatc.targets.cpu.native import Host

DONE, FAILED = 0, 1
REQUEST, ANSWER = struct.Struct("<Q"), struct.Struct("<BQ")


def followed(recipe: dict[str, Any], host: Host) -> bytes:
    """The object code of a recipe.  Raises what generating and compiling raise."""
    from concatc.targets.cpu.native import object_code
    from concatc.targets.cpu.units import unit_from

    if recipe["kind"] == "import numba":
        from concatc.targets.cpu.numba_compile import numba_context

        numba_context()
        return b""
    if recipe["kind"] == "aside":
        return bytes(importlib.import_module(recipe["module"]).answer(recipe))
    unit, cache = unit_from(recipe, host)
    if unit.key != recipe["key"]:
        raise ValueError("the recipe of another unit")
    return object_code(unit.llvm_ir(cache), host)


def serve(requests: BinaryIO, answers: BinaryIO, host: Host) -> None:
    """Compile until the pipe ends.  What cannot be compiled is left to who asked, whose error then says why."""
    while (head := requests.read(REQUEST.size)) and len(head) == REQUEST.size:
        (count,) = REQUEST.unpack(head)
        text = requests.read(count)
        if len(text) < count:
            return
        try:
            status, made = DONE, followed(json.loads(text), host)
        except Exception:
            status, made = FAILED, b""
        answers.write(ANSWER.pack(status, len(made)) + made)
        answers.flush()


def main() -> None:
    """Run as a program."""
    import gc
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all; who asked ends the pipe
    gc.disable()  # units are few, and the process ends behind them
    told, *directories = sys.argv[1:]
    sys.path += directories
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that is printed may stand between answers
    from concatc.targets.cpu import units  # noqa: F401  while there is nothing to do yet
    from concatc.targets.cpu.native import Host

    serve(sys.stdin.buffer, answers, Host(**json.loads(told)))


if __name__ == "__main__":
    main()
