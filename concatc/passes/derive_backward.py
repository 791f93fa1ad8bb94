"""``derive-backward``: from the split graph of a net to the joint graph, forward and backward in one function.

    %y = "cnet.relu"(%x)                       %y = "cnet.relu"(%x)
    %loss = "cnet.total_loss"(%l, %w)    ->    %loss = "cnet.total_loss"(%l, %w)
    func.return %loss                          %loss.grad = "cnet.constant"() {value = 1.0}
                                               %l.grad = "cnet.total_loss_grad"(%loss.grad, %w)
                                               ..
                                               %x.grad = "cnet.relu_grad"(%y, %y.grad) {transposes = "relu %y"}
                                               func.return %loss, %x.grad

Operations are transposed from the last to the first, each by its rule `vjp`: split becomes accumulate, with the last
reader's contribution first; concat becomes slice.  Invariant: every parameter that is not frozen has a result of kind
``grad``, every kept blob one of kind ``kept_grad``, and cotangents are linear (`insert-splits` runs at the end).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from concatc.diagnostics import ConcatcError, Diagnostic, UsageError, did_you_mean
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.op import Builder, ShapeError, is_op, op_of
from concatc.passes.graph import OUTPUT_GRAD, describe, is_backward, require_tensors, split_source
from concatc.passes.insert_splits import insert_splits


@dataclass(frozen=True)
class DeriveBackward:
    """Append the backward pass to the net's function.

    ``output_grads`` names outputs whose gradient the caller gives, as further arguments of kind ``output_grad``;
    ``input_grads`` names inputs whose gradient is returned; True means all float ones.  ``freeze`` names parameters
    that get no gradient.
    """

    output_grads: bool | tuple[str, ...] = False
    input_grads: bool | tuple[str, ...] = False
    freeze: tuple[str, ...] = ()

    name = "derive-backward"

    def run(self, module: Module) -> None:
        """Rewrite the net's function in place.

        Raises :class:`ConcatcError` where there is nothing to derive from (no loss), where an operation on the way to
        the loss has no gradient, and :class:`UsageError` for names that the net does not have.
        """
        func = module.main
        require_tensors(func, self.name)
        if any(is_backward(op) for op in func.ops):
            raise UsageError(f"@{func.sym_name} has a backward pass already")
        outputs = self.given_outputs(func)
        inputs = _choose("input", func.arguments("input"), self.input_grads)
        params = func.arguments("param")
        _check_names("parameter", self.freeze, params)
        trained = {name: value for name, value in params.items() if name not in self.freeze and value.tensor.is_float}
        kept = {name: split_source(v) for name, v in func.returned("kept").items() if v.tensor.is_float}
        for name in self.freeze:
            params[name].attrs["cnet.lr"] = 0.0  # so that the joint graph says why there is no gradient
        wanted = [("grad", trained), ("input_grad", inputs), ("kept_grad", kept)]

        derivation = _Derivation(func, [value for _, values in wanted for value in values.values()])
        derivation.seed(outputs)
        derivation.transpose_all()
        derivation.finish(wanted)
        insert_splits(func)

    def given_outputs(self, func: FuncOp) -> dict[str, Value]:
        """The outputs whose gradients the caller gives.  Raises :class:`UsageError` for names of no float output."""
        return _choose("output", func.returned("output"), self.output_grads)


class _Derivation:
    """The cotangents of a function's values, while its operations are transposed."""

    def __init__(self, func: FuncOp, sources: Iterable[Value]) -> None:
        self.func = func
        self.block = func.body
        self.cotangents: dict[Value, Value] = {}
        self.needed = depends_on(func, sources)
        self.forward = func.ops[:-1]
        self.ret = func.ret

    def seed(self, outputs: dict[str, Value]) -> None:
        """Start from the total loss, and from the outputs whose gradients the caller gives."""
        totals = self.func.returned("total")
        if not totals and not outputs:
            raise ConcatcError(
                Diagnostic(
                    f"net {self.func.sym_name} has no loss, so it has no backward pass",
                    self.func.loc,
                    help="add a loss, such as `loss softmax_loss(logits, label)`",
                )
            )
        self.block.ops = list(self.forward)
        for total in totals.values():
            self.cotangents[total] = self._constant(total, 1.0, f"return %{total.name}")
        for name, value in outputs.items():
            arg = self.block.add_arg(value.type, f"{name}.grad")
            arg.attrs = {"cnet.kind": OUTPUT_GRAD, "cnet.name": name}
            self.cotangents[value] = arg

    def transpose_all(self) -> None:
        """Transpose the forward operations in reverse."""
        for op in reversed(self.forward):
            cotangents = [self.cotangents.get(y) for y in op.results]
            needs = [x in self.needed for x in op.operands]
            if any(needs) and any(dy is not None for dy in cotangents):
                self._transpose(op, cotangents, needs)

    def _transpose(self, op: Operation, dys: list[Value | None], needs: list[bool]) -> None:
        rule = op_of(op)
        start = len(self.block.ops)
        builder = Builder(self.block, op.loc, attributes={"transposes": describe(op)})
        try:
            dxs = rule.vjp(builder, op.operands, op.results, dys, needs)
        except ShapeError as error:  # it has no gradient: a metric, such as accuracy, or a gradient itself
            raise ConcatcError(Diagnostic(error.message, op.loc, help=error.help)) from None
        for x, dx, need in zip(op.operands, dxs, needs, strict=True):
            if dx is None:
                continue
            assert dx.type == x.type, f"vjp of {op.name}: {dx.type} for an operand of {x.type}"
            passed_through = is_op(op, "split") and dx in dys
            if not dx.name or (passed_through and dx.name in (f"{y.name}.grad" for y in op.results)):
                dx.name = _grad_name(x)
            if need:
                if x in self.cotangents:
                    message = f"derive-backward needs the split level: %{x.name} has several readers"
                    raise UsageError(Diagnostic(message, op.loc, help="run insert-splits first"))
                self.cotangents[x] = dx
        helpers = [y for made in self.block.ops[start:] for y in made.results if not y.name]
        for k, value in enumerate(helpers):
            value.name = f"{op.results[0].name}.vjp{k}" if op.results[0].name else ""

    def finish(self, wanted: list[tuple[str, dict[str, Value]]]) -> None:
        """Return the gradients that were asked for; zeros where none flows."""
        returned: list[Value] = []
        for kind, values in wanted:
            for name, value in values.items():
                grad = self.cotangents.get(value)
                returned.append(self._constant(value, 0.0, f"%{value.name}") if grad is None else grad)
                self.func.result_attrs.append({"cnet.kind": kind, "cnet.name": name})
        self.ret.set_operands([*self.ret.operands, *returned])
        self.block.append(self.ret)

    def _constant(self, like: Value, value: float, transposes: str) -> Value:
        builder = Builder(self.block, like.op.loc if like.op else None, attributes={"transposes": transposes})
        made: Value = builder.constant(
            shape=like.shape, value=value, dtype=like.dtype, names=[_grad_name(split_source(like))]
        )
        return made


def depends_on(func: FuncOp, sources: Iterable[Value]) -> dict[Value, None]:
    """The float values that are computed from the sources, the sources included."""
    found = dict.fromkeys(sources)
    for op in func.ops:
        if any(x in found for x in op.operands):
            found.update((y, None) for y in op.results if y.tensor.is_float)
    return found


def _grad_name(value: Value) -> str:
    return f"{value.name}.grad" if value.name else ""


def _choose(what: str, values: dict[str, Value], names: bool | tuple[str, ...]) -> dict[str, Value]:
    if names is True:
        return {name: value for name, value in values.items() if value.tensor.is_float}
    chosen = names or ()
    _check_names(what, chosen, values)
    for name in chosen:
        if not values[name].tensor.is_float:
            raise UsageError(f"{what} `{name}` is {values[name].type}: integers have no gradient")
    return {name: values[name] for name in chosen}


def _check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in list(known)]
    if unknown:
        raise UsageError([Diagnostic(f"the net has no {what} `{n}`", help=did_you_mean(n, known)) for n in unknown])
