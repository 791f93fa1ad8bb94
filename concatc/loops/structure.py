"""The structure of a function: its text without names, so that equal kernels are found and compiled once."""

from __future__ import annotations

from concatc.ir.core import FuncOp, Operation, Value


def structure_of(function: FuncOp) -> str:
    """The function with values numbered in order: equal texts compute the same."""
    numbers: dict[Value, int] = {}
    lines: list[str] = []

    def visit(op: Operation) -> None:
        operands = ",".join(str(numbers[v]) for v in op.operands)
        lines.append(f"{op.name} {operands} {sorted(op.attributes.items())} {[str(r.type) for r in op.results]}")
        for region in op.regions:
            for block in region.blocks:
                for arg in block.args:
                    numbers[arg] = len(numbers)
                    lines.append(f"arg {arg.type} {sorted(arg.attrs.items())}")
                for inner in block.ops:
                    visit(inner)
                lines.append("end")
        for result in op.results:
            numbers[result] = len(numbers)

    visit(function)
    return "\n".join(lines)
