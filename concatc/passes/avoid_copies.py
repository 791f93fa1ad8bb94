"""``avoid-copies``: let kernels read and write several places, where a value cannot lie in one.

    %c = concat(%a, %x)              %x is an input, and lies where the caller put it
    %y = kernel(%c)  {relu}    ->    %y0 = kernel(%a)    %y1 = kernel(%x)    %y = concat(%y0, %y1)

    %p, %q = slice(%g)               %q is the gradient of a parameter, and must lie among the gradients
    %g = kernel(%d, %w)        ->    %p = kernel(%d, %w0)    %q = kernel(%d, %w1)

    %s = accumulate(%u, %v)          others read %u too, so nothing can be added to it; %v is made behind it
    %v = kernel(%d)            ->    %s = kernel(%d, %u)    {accumulate(%u, ..)}

    %s = accumulate(%u, %v)          %u and %v are parts of other values, and only %k reads their sum
    %k = kernel(%y, %s)        ->    %k = kernel(%y, %u, %v)    {accumulate(%u, %v) ..}

    %r = reshape(%x)                 strides express the halves of %r, and not all of it
    %p, %q = slice(%r)         ->    %x0, %x1 = slice(%x)    %p = reshape(%x0)    %q = reshape(%x1)

    %c = concat(%a, %b)              %a can lie in one of the two only
    %d = concat(%e, %a)        ->    %a, %a.second = kernel(..)    %d = concat(%e, %a.second)

The planner is asked what it would move by launches of their own.  For each, what moves the fewest bytes is done
(`copy_choices`), or nothing; where the best of all does not help, the next best.  A concat that is left without readers
stays, and says of which segments its value is.  Invariant: the plan of the result moves fewer bytes in all; values do
not change, but for the order in which parts of a sum are added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from concatc.ir.clone import clone_function
from concatc.ir.core import FuncOp, Module
from concatc.passes.copy_choices import choices_of
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.graph import require_tensors
from concatc.passes.kernel_edit import KernelEdit
from concatc.passes.plan_memory import Traffic, traffic_of

# Each round looks at what the rounds before have left.
ROUNDS = 8
# Where all choices of a round together do not help, so many of them are tried alone.
SINGLE_TRIALS = 12
# Where the best choices do not help, the next best are tried: so many in all.
RANKS = 3


@dataclass(frozen=True)
class AvoidCopies:
    """Rewrite the kernels around what would be copied."""

    name = "avoid-copies"

    def run(self, module: Module) -> None:
        """Rewrite the net's function in place."""
        require_tensors(module.main, self.name, kernels=True)
        avoid_copies(module.main)


def avoid_copies(func: FuncOp) -> None:
    """Rewrite ``func``, whose kernels stand in the order in which they run."""
    traffic = traffic_of(func)
    for _ in range(ROUNDS):
        found = _improved(func, traffic) if traffic.moves else None
        if found is None:
            return
        traffic = found


def _improved(func: FuncOp, traffic: Traffic) -> Traffic | None:
    """Make all choices, or else one that helps, else others; None, and ``func`` as it was, where none does."""
    for rank in range(RANKS):
        count, found = _tried(func, traffic, rank, slice(None))
        for k in range(min(count, SINGLE_TRIALS) if count > 1 else 0):
            if found is not None:
                break
            _, found = _tried(func, traffic, rank, slice(k, k + 1))
        if found is not None or count == 0:
            return found
    return None


def _tried(func: FuncOp, traffic: Traffic, rank: int, which: slice) -> tuple[int, Traffic | None]:
    """Make some of the choices where that moves fewer bytes; how many choices there are, and what is moved then."""
    trial = clone_function(func)
    copies = dict(zip(func.ops, trial.ops, strict=True))
    moves = [replace(move, op=copies[move.op]) for move in traffic.moves]
    with free_of_splits(trial):
        choices = choices_of(trial, moves, rank)
        edit = KernelEdit(trial)
        for choice in choices[which]:
            if not any(op in edit.touched for op in choice.kernels):
                edit.touched.update(dict.fromkeys(choice.kernels))
                choice.make(edit)
        edit.finish()
    found = traffic_of(trial) if choices else traffic
    if (found.bytes, found.launches) >= (traffic.bytes, traffic.launches):
        return len(choices), None
    func.regions[0].blocks[:] = trial.regions[0].blocks
    func.body.region = func.regions[0]
    for op in func.ops:
        op.block = func.body
    return len(choices), found
