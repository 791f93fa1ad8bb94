"""The stages that softmax, log_softmax and softmax_loss share: largest score and sum of exponentials of each row."""

from __future__ import annotations

from concatc.loops.expr import Axis, AxisKind, Ref, exp
from concatc.loops.pieces import Piece, temp
from concatc.ops._checks import without


def row_axes(x: Ref, axis: int, kind: AxisKind = "parallel") -> tuple[Axis, ...]:
    """The loop axes over the rows of ``x``: all but ``axis``."""
    return tuple(Axis(f"r{d}", n, kind) for d, n in enumerate(x.shape) if d != axis)


def row_stages(x: Ref, axis: int) -> tuple[Ref, Ref, list[Piece]]:
    """Temporaries 0 and 1, ``top = max_c x[c]`` and ``total = sum_c exp(x[c] - top)``, and their pieces."""
    rows = row_axes(x, axis)
    c = Axis("c", x.shape[axis], "reduce")
    shape = without(x.shape, axis)
    top, total = temp(0, shape, x.dtype), temp(1, shape, x.dtype)
    score = x[(*rows[:axis], c, *rows[axis:])]
    stages = [
        Piece(top, (*rows, c), rows, score, combine="max"),
        Piece(total, (*rows, c), rows, exp(score - top[rows]), combine="add"),
    ]
    return top, total, stages
