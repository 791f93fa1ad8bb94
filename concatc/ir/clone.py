"""A copy of IR that shares nothing with the original: each level of a net is a module of its own."""

from __future__ import annotations

from concatc.ir.core import Block, FuncOp, Module, Operation, Region, Value


def clone_module(module: Module) -> Module:
    """A copy of a module and of everything in it."""
    copied = Module(module.sym_name, attributes=module.attributes)
    copied.loc = module.loc
    for function in module.functions:
        copied.add(clone_function(function))
    return copied


def clone_function(function: FuncOp) -> FuncOp:
    """A copy of a function, for another module."""
    copied = FuncOp(
        function.sym_name,
        [a.type for a in function.args],
        [a.name for a in function.args],
        function.attributes,
        function.loc,
        function.private,
        function.declared,
    )
    values: dict[Value, Value] = {}
    _match_args(function.body, copied.body, values)
    _copy_ops(function.body, copied.body, values)
    copied.result_attrs = [dict(attrs) for attrs in function.result_attrs]
    return copied


def declaration(function: FuncOp) -> FuncOp:
    """A function's name and arguments without what it does."""
    args = function.args
    declared = FuncOp(function.sym_name, [a.type for a in args], [a.name for a in args], declared=())
    _match_args(function.body, declared.body, {})
    return declared


def _match_args(old: Block, new: Block, values: dict[Value, Value]) -> None:
    for a, b in zip(old.args, new.args, strict=True):
        b.attrs = dict(a.attrs)
        values[a] = b


def _copy_ops(old: Block, new: Block, values: dict[Value, Value]) -> None:
    for op in old.ops:
        copied = Operation(
            op.name,
            [values[v] for v in op.operands],
            [r.type for r in op.results],
            op.attributes,
            [_copy_region(region, values) for region in op.regions],
            op.loc,
            [r.name for r in op.results],
        )
        values.update(zip(op.results, copied.results, strict=True))
        new.append(copied)


def _copy_region(region: Region, values: dict[Value, Value]) -> Region:
    copied = Region()
    for block in region.blocks:
        made = copied.add_block(Block([a.type for a in block.args], [a.name for a in block.args]))
        _match_args(block, made, values)
        _copy_ops(block, made, values)
    return copied
