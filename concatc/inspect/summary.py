"""What a net is made of: a row for each operation, with shapes, parameters, bytes and floating-point operations.

blob      op        shape      params    bytes    flops
ha        linear    64x128       8320    32768  1048576
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concatc.diagnostics import Diagnostic, Loc, UsageError
from concatc.ir.core import Module, Operation
from concatc.ir.types import TensorType
from concatc.loops.declaration import BODY
from concatc.loops.expr import Arith, nodes
from concatc.op import is_op, lowered
from concatc.passes.graph import is_backward, short_name


@dataclass(frozen=True)
class Row:
    """One operation of the forward pass.

    ``params`` counts the elements of the parameters that it is the first to read, ``bytes`` those of its results,
    ``flops`` its arithmetic on floats: one for each operation of a piece at each point, as its pieces say (a
    multiplication and an addition count two; a transcendental counts one).
    """

    blob: str
    op: str
    shape: str
    params: int
    bytes: int
    flops: int
    loc: Loc | None = None


@dataclass(frozen=True)
class Summary:
    """The rows in order of the source, and the totals."""

    net: str
    rows: tuple[Row, ...]
    params: int
    params_bytes: int
    flops: int


KERNEL = "cnet.kernel"
HEADER = ("blob", "op", "shape", "params", "bytes", "flops")


def summarize(module: Module) -> Summary:
    """Summarize the net's function at one of the levels graph to kernels; splits and the backward half are left out.

    Raises :class:`UsageError` for the net of a plan or of loops, which has no operations.
    """
    func = module.main
    if func.ops[0].name == BODY:
        message = f"a plan or loops do not hold the operations of {func.sym_name}"
        raise UsageError(Diagnostic(message, help="summary takes nets, and dumps of the levels graph to kernels"))
    params = func.arguments("param")
    unread = {value: value.tensor.numel for value in params.values()}
    rows = []
    for op in func.ops[:-1]:
        if is_backward(op):
            continue
        if is_op(op, "split"):
            unread.update({y: unread.pop(op.operands[0]) for y in op.results[:1] if op.operands[0] in unread})
            continue
        rows.append(
            Row(
                blob=", ".join(y.name for y in op.results),
                op=str(op.attributes.get("sym_name", "kernel")) if op.name == KERNEL else short_name(op),
                shape=", ".join(_shape(y.tensor) for y in op.results),
                params=sum(unread.pop(x, 0) for x in op.operands),
                bytes=sum(y.tensor.size_bytes for y in op.results),
                flops=flops(op),
                loc=op.loc,
            )
        )
    return Summary(
        net=func.sym_name,
        rows=tuple(rows),
        params=sum(v.tensor.numel for v in params.values()),
        params_bytes=sum(v.tensor.size_bytes for v in params.values()),
        flops=sum(row.flops for row in rows),
    )


def flops(op: Operation) -> int:
    """Floating-point operations of ``op``, counted on its pieces; of a kernel, on those of what it holds."""
    if op.name == KERNEL:
        return sum(flops(inner) for inner in op.regions[0].block.ops[:-1])
    total = 0
    for piece in lowered(op):
        arithmetic = sum(isinstance(e, Arith) and e.args[0].dtype in ("f32", "f64") for e in nodes(piece.value))
        folds = piece.combine in ("add", "max")
        total += math.prod(a.extent for a in piece.axes) * (arithmetic + folds)
    return total


def text(summary: Summary) -> str:
    """The summary as plain text, columns aligned."""
    rows = [(r.blob, r.op, r.shape, f"{r.params:,}", f"{r.bytes:,}", f"{r.flops:,}") for r in summary.rows]
    table = [HEADER, *rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    lines = []
    for row in table:
        cells = [cell.ljust(w) if k < 3 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    parameters = f"{summary.params:,} parameters ({summary.params_bytes:,} bytes)"
    lines.append(f"{summary.net}: {parameters}, {summary.flops:,} flops forward")
    return "\n".join(lines)


def _shape(type: TensorType) -> str:
    return "x".join(map(str, type.shape)) if type.shape else "scalar"
