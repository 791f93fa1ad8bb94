"""What the text of a plan, and of its loops, says of the net: its arguments and results, as a declaration.

    func.func private @net(tensor<64x64xf32> {cnet.kind = "input", cnet.name = "a", cnet.dims = ["x", ""]}, ..)
        -> (tensor<f32> {cnet.kind = "total", cnet.name = "loss"}, ..)
        attributes {cnet.net = "thread", cnet.dims = {x = 64 : i64}}

The attributes are those of the net's function (`docs/ARCHITECTURE.md`), and ``cnet.offset`` where an argument or result
lies elsewhere in its base than :func:`interface_of` puts it (inference shares the memory of training).  An input that a
plan has elsewhere says where: ``cnet.base = "arena", cnet.offset = 4096 : i64, cnet.strides = array<i64: 96, 1>``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import cast

from concatc.ir.clone import clone_function
from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.bases import Interface, argument_key, interface_of, is_staged, result_keys
from concatc.loops.plan import ALIGN_BYTES, Base, BaseKind, Window, interface_key

# No kernel and no step has this name.
DECLARED = "net"
NET, DIMS, OFFSET = "cnet.net", "cnet.dims", "cnet.offset"
# Where an input lies that is staged elsewhere than in ``inputs``, with its offset.
BASE, STRIDES = "cnet.base", "cnet.strides"
STAGED_IN: tuple[BaseKind, ...] = ("arena", "outputs")
# What was chosen on the way to the plan.
CHOICES = ("cnet.order", "cnet.order_bytes", "cnet.budget", "cnet.joined")
# What stands for the body of the net: a plan or loops.
BODY = "cnet.step"


def declaration_of(net: FuncOp, interface: Interface) -> FuncOp:
    """The declaration of a net's function whose arguments and results lie as ``interface`` says."""
    usual = interface_of(net).with_staged(interface.staged).slots
    results = net.ret.operands
    declared = FuncOp(
        DECLARED,
        [a.type for a in net.args],
        [a.name for a in net.args],
        {
            NET: net.attributes.get(NET, net.sym_name),
            **{k: v for k, v in net.attributes.items() if k in (DIMS, *CHOICES)},
        },
        net.loc,
        declared=[v.type for v in results],
    )

    def told(key: str, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
        kind, _, name = key.partition(":")
        offset = interface.slots[key].offset_bytes
        elsewhere: dict[str, Attr] = {OFFSET: offset} if offset != usual[key].offset_bytes else {}
        return {"cnet.kind": kind, "cnet.name": name, **attrs, **elsewhere}

    for arg, original in zip(declared.args, net.args, strict=True):
        arg.attrs = told(argument_key(original), original.attrs)
    attrs = net.result_attrs or [{} for _ in results]
    # A state's new value lies where its old one does: the argument says where.
    declared.result_attrs = [told(key, given) for key, given in zip(result_keys(net), attrs, strict=True)]
    for given in declared.result_attrs:
        if given["cnet.kind"] == "state":
            given.pop(OFFSET, None)
    declare_staged(declared, interface)
    return declared


def declare_staged(declaration: FuncOp, interface: Interface) -> None:
    """Say where inputs lie that are staged elsewhere than in ``inputs``."""
    staged = interface.staged
    for arg in declaration.args:
        slot = staged.get(argument_key(arg))
        if slot is not None:
            arg.attrs.update({BASE: slot.base, OFFSET: slot.offset_bytes, STRIDES: slot.strides})


def plain_declaration(declaration: FuncOp) -> FuncOp:
    """A copy without what was chosen for the sizes, and without what follows from graph and plan: what indices must
    be, and where inputs are staged.
    """
    copied = clone_function(declaration)
    copied.attributes = {k: v for k, v in copied.attributes.items() if k in (NET, DIMS)}
    for arg in copied.args:
        arg.attrs.pop("cnet.index", None)
        if BASE in arg.attrs:
            for key in (BASE, OFFSET, STRIDES):
                arg.attrs.pop(key)
    return copied


def declaration_in(module: Module) -> FuncOp | None:
    """The declaration in a module of a plan or of loops; None where it has none."""
    found = [f for f in module.functions if f.sym_name == DECLARED and f.declared is not None]
    return found[0] if found else None


def net_of(declaration: FuncOp) -> FuncOp:
    """The net's function as at the levels of graphs, one operation in place of its body."""
    names = [str(a.attrs.get("cnet.name", a.name)) for a in declaration.args]
    net = FuncOp(
        str(declaration.attributes.get(NET, declaration.sym_name)),
        [a.type for a in declaration.args],
        names,
        declaration.attributes,
        declaration.loc,
    )
    for arg, original in zip(net.args, declaration.args, strict=True):
        arg.attrs = dict(original.attrs)
    types = declaration.type.results
    net.result_attrs = [dict(attrs) for attrs in declaration.result_attrs] or [{} for _ in types]
    results = [_result_name(attrs, k) for k, attrs in enumerate(net.result_attrs)]
    body = net.body.append(Operation(BODY, net.args, types, loc=declaration.loc, result_names=results))
    net.body.append(Operation("func.return", body.results, loc=declaration.loc))
    return net


def _result_name(attrs: Mapping[str, Attr], index: int) -> str:
    name = str(attrs.get("cnet.name", f"result{index}"))
    return f"{name}.grad" if str(attrs.get("cnet.kind")).endswith("grad") else name


def declared_interface(net: FuncOp, bases: Mapping[str, Base]) -> Interface:
    """Where the arguments and results of :func:`net_of` lie, in bases of the sizes that a step has."""
    interface = interface_of(net)
    staged = {argument_key(arg): window for arg in net.args if (window := _staged(arg)) is not None}
    interface = interface.with_staged(staged)
    for key, value, attrs in _declared(net):
        offset = attrs.get(OFFSET)
        if key not in staged and isinstance(offset, int) and not isinstance(offset, bool):
            slot = interface.slots[key]
            interface.slots[key] = type(slot).dense(slot.base, offset, value.tensor)
    interface.size_bytes = {base.name: base.size_bytes for base in bases.values()}
    return interface


def slot_problems(interface: Interface) -> Iterator[str]:
    """Slots that leave their base, are not aligned, share bytes, or gradients that do not lie as their parameters.

    Whether inputs that are staged elsewhere share bytes, the checker of plans finds.
    """
    by_base: dict[str, list[tuple[int, int, str]]] = {}
    for key, slot in interface.slots.items():
        limit = interface.size_bytes.get(cast(BaseKind, slot.base), 0)
        if slot.offset_bytes < 0 or slot.end_bytes > limit:
            yield f"{key} is bytes {slot.offset_bytes} to {slot.end_bytes} of {slot.base}, which has {limit}"
        unit = ELEMENT_BYTES[slot.dtype] if is_staged(key, slot) else ALIGN_BYTES
        if slot.offset_bytes % unit:
            yield f"{key} starts at byte {slot.offset_bytes} of {slot.base}, which is no multiple of {unit}"
        if is_staged(key, slot):
            continue
        by_base.setdefault(slot.base, []).append((slot.offset_bytes, slot.end_bytes, key))
        kind, _, name = key.partition(":")
        of = interface.slots.get(interface_key("param", name)) if kind == "grad" else None
        if of is not None and of.offset_bytes != slot.offset_bytes:
            yield f"{key} lies at {slot.offset_bytes}, its parameter at {of.offset_bytes}; they must lie alike"
    for places in by_base.values():
        places.sort()
        for (_, end, key), (start, _, other) in itertools.pairwise(places):
            if start < end:
                yield f"{key} and {other} share bytes"


def _staged(arg: Value) -> Window | None:
    """Where an input lies that says so (`check_interface` refuses what is malformed)."""
    base, offset, strides = (arg.attrs.get(key) for key in (BASE, OFFSET, STRIDES))
    if base not in STAGED_IN or type(offset) is not int or not isinstance(strides, tuple):
        return None
    return Window(str(base), offset, arg.shape, tuple(s for s in strides if isinstance(s, int)), arg.dtype)


def _declared(net: FuncOp) -> Iterator[tuple[str, Value, Mapping[str, Attr]]]:
    for arg in net.args:
        yield argument_key(arg), arg, arg.attrs
    yield from zip(result_keys(net), net.ret.operands, net.result_attrs, strict=True)
