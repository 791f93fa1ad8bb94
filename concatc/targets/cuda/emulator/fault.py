"""What the emulator says of a kernel that is wrong: which rule it breaks, in which line, block and thread."""

from __future__ import annotations

from concatc.diagnostics import ConcatcError, Diagnostic, Loc


class KernelFault(ConcatcError):
    """A kernel that does what a GPU would not forgive, or not promise the result of.

    ``rule`` names what was broken (:data:`RULES`); ``block`` and ``thread`` are the first that broke it, None where it
    is no thread's doing.
    """

    def __init__(
        self,
        rule: str,
        message: str,
        kernel: str,
        loc: Loc,
        source: str = "",
        block: int | None = None,
        thread: int | None = None,
    ) -> None:
        assert rule in RULES, rule
        where = "" if block is None else f", block {block}, thread {thread}"
        diagnostic = Diagnostic(f"kernel `{kernel}`{where}: {message}", loc, (RULES[rule],))
        super().__init__(diagnostic, {loc.file: source} if source else None)
        self.rule, self.kernel, self.line, self.block, self.thread = rule, kernel, loc.line, block, thread


RULES = {
    "bounds": "an access stays inside of the window that its pointer was given, or of its own array",
    "race": "what one thread stores, no other thread stores or loads before a barrier of its block",
    "barrier": "all threads of a block meet at a barrier",
    "uninitialised": "what is read was written before",
    "overflow": "integers stay within the range that their operation is defined for",
    "shuffle": "all threads that a shuffle names take part in it, and hold what is read",
    "warp": "all threads of a warp take part in what they multiply together",
    "copy": "what is copied behind a thread's back is touched when that thread has waited for it",
    "alignment": "an address is a multiple of its element's size",
    "syntax": "kernels are written in the dialect of docs/TARGET_CUDA.md",
    "types": "an operation gets operands of the types that it is defined for",
}
