"""Does each operation of a net fit its op: is it known, are its attributes right, do its types follow from its operands?"""

from __future__ import annotations

from collections.abc import Iterator

from concatc.diagnostics import did_you_mean
from concatc.ir.core import Module, Operation
from concatc.ir.types import TensorType
from concatc.ir.verifier import verify
from concatc.op import DIALECT, ShapeError, load_all_ops_once

STRUCTURAL = ("cnet.kernel", "cnet.yield")


def verify_net(module: Module) -> None:
    """Raise one :class:`ConcatcError` with all that is wrong with a module of the levels graph to kernels."""
    verify(module, {"cnet": check_op})


def check_op(operation: Operation) -> Iterator[str]:
    """What is wrong with one operation of the dialect, in words."""
    if operation.name in STRUCTURAL:
        return
    ops = load_all_ops_once()
    cls = ops.get(operation.name.removeprefix(DIALECT))
    if cls is None:
        hint = did_you_mean(operation.name.removeprefix(DIALECT), ops)
        yield f"no op `{operation.name}`" + (f"; {hint}" if hint else "")
        return
    if not all(isinstance(v.type, TensorType) for v in operation.operands):
        yield f"{operation.name} takes tensors"
        return
    try:
        types = cls.from_attrs(operation.attributes).infer([v.tensor for v in operation.operands])
    except ShapeError as error:
        names = [f"%{v.name}" for v in operation.operands]
        yield error.message.format(*names)
        return
    except (ValueError, IndexError) as error:
        # Rules unpack and index their operands: too few or too many of them end here.
        yield f"{operation.name} does not take {len(operation.operands)} operands ({error})"
        return
    found = [r.type for r in operation.results]
    if types != found:
        yield f"{operation.name} gives {', '.join(map(str, types))}, not {', '.join(map(str, found))}"
