"""The kernels of a plan: a function for each kernel operation, one for all that mean the same.

    "cnet.kernel"(%x) ({..}) {sym_name = "k0_relu"}   ->   func.func @k0_relu(%x_: tensor<2x4xf32>) -> tensor<2x4xf32>

Two operations share a function when their types, operations and attributes agree; strides are the launch's.  A function
has the name of the first kernel operation that it serves; what the planner adds is numbered behind all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.ir.core import Attr, Block, FuncOp, Operation
from concatc.ir.types import TensorType
from concatc.op import DIALECT, Op
from concatc.passes.graph import PROVENANCE


class KernelTable:
    """Functions by name, in order of first use.  ``first_number`` is the first that no kernel operation has."""

    def __init__(self, first_number: int) -> None:
        self.functions: dict[str, FuncOp] = {}
        self._names: dict[object, str] = {}
        self._next_number = first_number

    def of_operation(self, op: Operation) -> str:
        """The name of the function that does what ``op`` (a kernel, or a lone operation) does."""
        if op.name == "cnet.kernel":
            block = op.regions[0].block
            return self._intern(_key(block), str(op.attributes.get("sym_name", "kernel")), block)
        block = Block([v.type for v in op.operands], [v.name for v in op.operands])
        copy = Operation(op.name, block.args, [r.type for r in op.results], op.attributes, loc=op.loc)
        block.append(copy)
        block.append(Operation("cnet.yield", copy.results))
        return self._added(op.name.removeprefix(DIALECT), block)

    def function_of(self, op: Operation) -> FuncOp:
        """The function that does what ``op`` does."""
        return self.functions[self.of_operation(op)]

    def of_op(self, op: Op, operands: Sequence[TensorType]) -> str:
        """The name of the function of one op on operands of these types."""
        block = Block(operands, [f"x{k}" for k in range(len(operands))])
        types = op.infer(operands)
        made = Operation(DIALECT + op.name, block.args, types, op.attrs())
        block.append(made)
        block.append(Operation("cnet.yield", made.results))
        return self._added(op.name, block)

    def _added(self, title: str, block: Block) -> str:
        key = _key(block)
        if key in self._names:
            return self._names[key]
        self._next_number += 1
        return self._intern(key, f"k{self._next_number - 1}_{title}", block)

    def _intern(self, key: object, title: str, block: Block) -> str:
        if key in self._names:
            return self._names[key]
        name = title
        while name in self.functions:
            name = f"{title}.{len(self.functions)}"
        self._names[key] = name
        self.functions[name] = _function(name, block)
        return name


def _key(block: Block) -> object:
    number = {value: k for k, value in enumerate(block.args)}
    parts: list[object] = [tuple(a.type for a in block.args)]
    for op in block.ops:
        operands = tuple(number[v] for v in op.operands)
        for result in op.results:
            number[result] = len(number)
        parts.append((op.name, operands, tuple(r.type for r in op.results), tuple(_attributes(op).items())))
    return tuple(parts)


def _attributes(op: Operation) -> dict[str, Attr]:
    """What an operation means, without what it transposes or recomputes: that is another thing at each launch."""
    return {k: v for k, v in op.attributes.items() if k not in PROVENANCE}


def _function(name: str, block: Block) -> FuncOp:
    function = FuncOp(name, [a.type for a in block.args], [a.name for a in block.args])
    env = dict(zip(block.args, function.args, strict=True))
    for op in block.ops:
        operands = [env[v] for v in op.operands]
        if op.name == "cnet.yield":
            function.body.append(Operation("func.return", operands))
            function.result_attrs = [{} for _ in operands]
            break
        types, names = [r.type for r in op.results], [r.name for r in op.results]
        copy = Operation(op.name, operands, types, _attributes(op), loc=op.loc, result_names=names)
        env.update(zip(op.results, copy.results, strict=True))
        function.body.append(copy)
    return function
