"""What the comment at the end of an operation's line says: source line, bytes of the results, parts of a slice.

    %ha.grad, %hb.grad = "cnet.slice"(%h.grad) ..   // thread.cnet:9  32 KiB, 16 KiB  rows 0..64, 64..96 of %h.grad

All of it is computed from the IR; readers of the text skip it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import PurePosixPath

from concatc.diagnostics import Loc
from concatc.ir.core import Operation, Value
from concatc.ir.types import TensorType


def comment_candidates(op: Operation, name: Callable[[Value], str], show_line: bool, transposes: str = "") -> list[str]:
    """Comments for the operation, the fullest first; none where there is nothing to say.

    ``show_line`` is false where the operation before has the same source line; then only operations on tensors say
    it again.  ``transposes`` is what the operation transposes, where its attributes do not say so.
    """
    tensors = [r.type for r in op.results if isinstance(r.type, TensorType)]
    full, short = "", ""
    if op.loc and (show_line or tensors):
        full = f"{_file_name(op.loc)}:{op.loc.line}"
        short = f":{op.loc.line}"
    amounts = [bytes_text(t.size_bytes) for t in tensors]
    if len(amounts) > 1 and len(set(amounts)) == 1:
        amounts = [f"{len(amounts)} x {amounts[0]}"]
    size = ", ".join(amounts[:4]) + (", .." if len(amounts) > 4 else "")
    parts = _slice_note(op)
    notes = [_joined(full, size, f"{parts} of {name(op.operands[0])}"), _joined(short, parts)] if parts else []
    candidates = [*notes, _joined(full, size), _joined(short, size), short]
    if transposes:
        # Two lines are better than no word on what is transposed, or on the parts of a slice.
        candidates = [_joined(transposes, c) for c in (notes or [*candidates, ""])]
        candidates.append(_joined(transposes.partition(" ")[0], parts))
    return [c for c in dict.fromkeys(candidates) if c]


def _file_name(loc: Loc) -> str:
    # A comment must not end before its line does, whatever a file is called.
    return "".join(c if c.isprintable() else "?" for c in PurePosixPath(loc.file).name)


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``40 B``, ``3.8 KiB``, ``32 KiB``, ``1.5 MiB``."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def _slice_note(op: Operation) -> str:
    axis, sizes = op.attributes.get("axis"), op.attributes.get("sizes")
    if op.name != "cnet.slice" or not isinstance(axis, int) or not isinstance(sizes, tuple) or len(op.operands) != 1:
        return ""
    numbers = [n for n in sizes if isinstance(n, int)]
    edges = list(itertools.accumulate(numbers, initial=0))
    what = "rows" if axis == 0 else f"axis {axis}:"
    parts = [f"{a}..{b}" for a, b in itertools.pairwise(edges)]
    return f"{what} {', '.join(parts[:4])}" + (", .." if len(parts) > 4 else "")
