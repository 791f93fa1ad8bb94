"""SSA values, operations, blocks and regions: the data structure that every level of concatc shares.

    %y = "cnet.relu"(%x) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc("tiny.cnet":3:9)

An operation has operands (uses of values), results (values), attributes (plain Python data), regions and a
location.  A value knows its uses.  Nothing here knows what an operation means; `concatc.op` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from concatc.diagnostics import Loc
from concatc.ir.types import FunctionType, TensorType, Type


@dataclass(frozen=True, slots=True)
class SymbolRef:
    """``@name``: a reference to a function of the same module."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


# What an attribute may hold.  () prints as array<i64>, tuples of one number type as array<..: ..>, others as [..].
Attr = None | bool | int | float | str | Type | SymbolRef | tuple["Attr", ...] | Mapping[str, "Attr"]


class Use:
    """Operand ``index`` of ``op``."""

    __slots__ = ("index", "op")

    def __init__(self, op: Operation, index: int) -> None:
        self.op = op
        self.index = index

    def __repr__(self) -> str:
        return f"Use({self.op.name}, {self.index})"


class Value:
    """An SSA value: result ``index`` of an operation, or argument ``index`` of a block.

    ``name`` is what dumps print after ``%`` (made unique by the printer).  ``attrs`` holds the attributes of a
    function's argument (``cnet.kind`` and so on) and is empty elsewhere.
    """

    __slots__ = ("attrs", "index", "name", "owner", "type", "uses")

    def __init__(self, type: Type, name: str, owner: Operation | Block, index: int) -> None:
        self.type = type
        self.name = name
        self.owner = owner
        self.index = index
        self.uses: list[Use] = []
        self.attrs: dict[str, Attr] = {}

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor."""
        assert isinstance(self.type, TensorType), f"%{self.name} has type {self.type}"
        return self.type

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a tensor value."""
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        """The element type of a tensor value."""
        return self.tensor.dtype

    @property
    def op(self) -> Operation | None:
        """The operation that makes this value; None for a block argument."""
        return self.owner if isinstance(self.owner, Operation) else None

    @property
    def readers(self) -> list[Operation]:
        """The operations that read this value, in the order in which the uses were made."""
        return [use.op for use in self.uses]

    def replace_all_uses_with(self, other: Value) -> None:
        """Make every reader of this value read ``other``."""
        for use in list(self.uses):
            use.op.set_operand(use.index, other)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Operation:
    """``results = "name"(operands) {attributes} (regions) loc``."""

    def __init__(
        self,
        name: str,
        operands: Sequence[Value] = (),
        result_types: Sequence[Type] = (),
        attributes: Mapping[str, Attr] | None = None,
        regions: Sequence[Region] = (),
        loc: Loc | None = None,
        result_names: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.loc = loc
        self.attributes: dict[str, Attr] = dict(attributes or {})
        self.block: Block | None = None
        self.regions: list[Region] = []
        for region in regions:
            self.add_region(region)
        self._operands: list[Value] = []
        for value in operands:
            self._operands.append(value)
            value.uses.append(Use(self, len(self._operands) - 1))
        names = list(result_names) if result_names is not None else [""] * len(result_types)
        assert len(names) == len(result_types), f"{name}: {len(names)} names for {len(result_types)} results"
        self.results = [Value(t, n, self, k) for k, (t, n) in enumerate(zip(result_types, names, strict=True))]

    @property
    def operands(self) -> tuple[Value, ...]:
        """The values read, in order."""
        return tuple(self._operands)

    @property
    def result(self) -> Value:
        """The only result."""
        assert len(self.results) == 1, f"{self.name} has {len(self.results)} results"
        return self.results[0]

    def add_region(self, region: Region) -> None:
        """Append a region."""
        region.parent = self
        self.regions.append(region)

    def set_operand(self, index: int, value: Value) -> None:
        """Replace one operand and keep the lists of uses true."""
        old = self._operands[index]
        old.uses = [use for use in old.uses if not (use.op is self and use.index == index)]
        self._operands[index] = value
        value.uses.append(Use(self, index))

    def set_operands(self, values: Sequence[Value]) -> None:
        """Replace all operands."""
        self._drop_uses()
        self._operands = list(values)
        for index, value in enumerate(self._operands):
            value.uses.append(Use(self, index))

    def _drop_uses(self) -> None:
        for old in {id(v): v for v in self._operands}.values():
            old.uses = [use for use in old.uses if use.op is not self]

    def erase(self) -> None:
        """Remove the operation from its block; its results must have no uses."""
        assert not any(r.uses for r in self.results), f"{self.name} is erased while %{self.results[0].name} is in use"
        for inner in self.walk():
            inner._drop_uses()
        self._drop_uses()
        if self.block is not None:
            self.block.ops.remove(self)
            self.block = None

    def walk(self) -> Iterator[Operation]:
        """All operations in the regions of this one, outer before inner, in order."""
        for region in self.regions:
            for block in region.blocks:
                for op in list(block.ops):
                    yield op
                    yield from op.walk()

    def __repr__(self) -> str:
        return f"<{', '.join('%' + r.name for r in self.results)} = {self.name}>"


class Block:
    """Arguments and operations in order."""

    def __init__(self, arg_types: Sequence[Type] = (), arg_names: Sequence[str] | None = None) -> None:
        self.args: list[Value] = []
        self.ops: list[Operation] = []
        self.region: Region | None = None
        names = arg_names if arg_names is not None else [f"arg{k}" for k in range(len(arg_types))]
        for type, name in zip(arg_types, names, strict=True):
            self.add_arg(type, name)

    def add_arg(self, type: Type, name: str) -> Value:
        """Append an argument."""
        value = Value(type, name, self, len(self.args))
        self.args.append(value)
        return value

    def append(self, op: Operation) -> Operation:
        """Append an operation."""
        op.block = self
        self.ops.append(op)
        return op

    def insert_before(self, anchor: Operation, op: Operation) -> Operation:
        """Insert ``op`` before ``anchor``."""
        op.block = self
        self.ops.insert(self.ops.index(anchor), op)
        return op


class Region:
    """Blocks owned by an operation."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self.parent: Operation | None = None
        self.blocks: list[Block] = []
        for block in blocks:
            self.add_block(block)

    def add_block(self, block: Block) -> Block:
        """Append a block."""
        block.region = self
        self.blocks.append(block)
        return block

    @property
    def block(self) -> Block:
        """The only block."""
        assert len(self.blocks) == 1
        return self.blocks[0]


class FuncOp(Operation):
    """``func.func @name(args) -> results``: one block that ends in ``func.return``.

    ``result_attrs[k]`` holds the attributes of result ``k`` (``cnet.kind``, ``cnet.name``).  ``declared`` is None, or
    the result types of a declaration, which has arguments and no operations.  A declaration is always ``private``.
    """

    def __init__(
        self,
        sym_name: str,
        arg_types: Sequence[Type] = (),
        arg_names: Sequence[str] | None = None,
        attributes: Mapping[str, Attr] | None = None,
        loc: Loc | None = None,
        private: bool = False,
        declared: Sequence[Type] | None = None,
    ) -> None:
        block = Block(arg_types, arg_names)
        super().__init__("func.func", attributes=attributes, regions=[Region([block])], loc=loc)
        self.sym_name = sym_name
        self.private = private or declared is not None
        self.declared = None if declared is None else tuple(declared)
        self.result_attrs: list[dict[str, Attr]] = []

    @property
    def body(self) -> Block:
        """The block of the function."""
        return self.regions[0].block

    @property
    def args(self) -> list[Value]:
        """The arguments."""
        return self.body.args

    @property
    def ops(self) -> list[Operation]:
        """The operations, the return last."""
        return self.body.ops

    @property
    def ret(self) -> Operation:
        """The ``func.return``."""
        op = self.body.ops[-1]
        assert op.name == "func.return", f"@{self.sym_name} does not end in func.return"
        return op

    @property
    def type(self) -> FunctionType:
        """Argument and result types."""
        if self.declared is not None:
            return FunctionType(tuple(a.type for a in self.args), self.declared)
        return FunctionType(tuple(a.type for a in self.args), tuple(v.type for v in self.ret.operands))

    def returned(self, kind: str) -> dict[str, Value]:
        """The returned values whose ``cnet.kind`` is ``kind`` (loss, output, grad, state, ..), by ``cnet.name``."""
        pairs = zip(self.result_attrs, self.ret.operands, strict=True)
        return {str(attrs["cnet.name"]): value for attrs, value in pairs if attrs.get("cnet.kind") == kind}

    def arguments(self, kind: str) -> dict[str, Value]:
        """The arguments whose ``cnet.kind`` is ``kind`` (input, param, state, ..), by ``cnet.name``."""
        return {str(a.attrs["cnet.name"]): a for a in self.args if a.attrs.get("cnet.kind") == kind}

    def add_return(self, value: Value, **attrs: Attr) -> None:
        """Return one more value; attribute names get the prefix ``cnet.``."""
        self.ret.set_operands([*self.ret.operands, value])
        self.result_attrs.append({f"cnet.{k}": v for k, v in attrs.items()})


class Module(Operation):
    """``module @name { functions }``."""

    def __init__(
        self, sym_name: str, functions: Iterable[FuncOp] = (), attributes: Mapping[str, Attr] | None = None
    ) -> None:
        super().__init__("builtin.module", attributes=attributes, regions=[Region([Block()])])
        self.sym_name = sym_name
        for function in functions:
            self.add(function)

    def add(self, function: FuncOp) -> FuncOp:
        """Append a function."""
        self.regions[0].block.append(function)
        return function

    @property
    def functions(self) -> list[FuncOp]:
        """The functions in order."""
        return [op for op in self.regions[0].block.ops if isinstance(op, FuncOp)]

    def function(self, name: str) -> FuncOp:
        """The function of that name; raises KeyError."""
        for function in self.functions:
            if function.sym_name == name:
                return function
        raise KeyError(name)

    @property
    def main(self) -> FuncOp:
        """The first function: the net."""
        return self.functions[0]
