"""The bounds of labels and indices in a plan: integers are followed through its launches, window by window.

    launch k0_copy   reads inputs+0 [4] (label), writes arena+64 [4]
    launch k3_softmax_loss  reads .., arena+64 [4]                      ->  label must hold 0 to classes - 1

A plan that was edited indexes what its launches say, whatever its declaration states.
"""

from __future__ import annotations

from concatc.ir.core import FuncOp, Value
from concatc.ir.types import INTEGERS
from concatc.loops.bases import Interface, argument_key
from concatc.loops.plan import Plan
from concatc.runtime.bounds import IndexFollower, Origins
from concatc.runtime.index_check import KINDS, IndexCheck
from concatc.runtime.integers import Integers


def plan_index_checks(plan: Plan, net: FuncOp, interface: Interface) -> list[IndexCheck]:
    """The checks that the launches of a plan ask for; the arguments of ``net`` lie as ``interface`` says.

    Raises ConcatcError where an index is known and out of range, or is computed in a way that cannot be followed.
    """
    follower = IndexFollower()
    memory = Integers()
    for arg in net.args:
        if arg.dtype in INTEGERS and arg.attrs.get("cnet.kind") in KINDS:
            origins = follower.source(str(arg.attrs["cnet.kind"]), str(arg.attrs["cnet.name"]), arg)
            memory.write(interface.slots[argument_key(arg)], origins.numbers)
    for launch in plan.launches:
        kernel = plan.kernels[launch.kernel]
        found: dict[Value, Origins] = {}
        for arg, window in zip(kernel.args, launch.reads, strict=True):
            numbers = memory.read(window) if window.dtype in INTEGERS else None
            if numbers is not None:
                found[arg] = Origins.of(numbers)
        follower.run(kernel.body, found)
        if launch.scratch is not None:
            memory.write(launch.scratch, None)
        for value, window, add in zip(kernel.ret.operands, launch.writes, launch.add, strict=True):
            made = None if add else found.get(value)
            memory.write(window, None if made is None else made.numbers)
    return follower.checks()
