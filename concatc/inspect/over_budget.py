"""What to tell a user whose memory budget cannot be met: the nearest one that can, and what takes the bytes."""

from __future__ import annotations

from concatc.diagnostics import Diagnostic
from concatc.inspect.memory import plan_report
from concatc.ir.comments import bytes_text
from concatc.ir.core import FuncOp
from concatc.loops.plan import Plan
from concatc.passes.fit_budget import Candidate, planned_bytes
from concatc.sizes import exact_text

MOST_LISTED = 5
WORDS = {"params": "parameters", "grads": "gradients"}


def over_budget(net: FuncOp, limit_bytes: int, update_bytes: int, default: Plan, least: Candidate) -> Diagnostic:
    """The error for a budget of ``limit_bytes``.

    ``default`` is the plan without one, ``least`` the smallest of all that were tried, and an optimizer needs
    ``update_bytes`` besides.
    """
    need = least.need_bytes + update_bytes
    bases = [
        f"{WORDS.get(base.name, base.name)} {bytes_text(base.size_bytes)}"
        for base in least.plan.bases.values()
        if base.size_bytes
    ]
    needed, given = _apart(need, limit_bytes)
    if update_bytes:
        bases.append(f"optimizer {bytes_text(update_bytes)}")
    return Diagnostic(
        f"net {net.sym_name} needs {needed} at least; the budget is {given}",
        net.loc,
        notes=(
            f"the plan that computes least again needs {bytes_text(planned_bytes(default) + update_bytes)}",
            f"these {bytes_text(need)} are {', '.join(bases)}; {_choice(least)}",
            *_at_peak(least.plan),
        ),
        help=f"a budget of {exact_text(need)} can be met; smaller dims, such as the batch size, need less",
    )


def _apart(need: int, limit: int) -> tuple[str, str]:
    """Two amounts as text; in bytes where they would read alike."""
    texts = bytes_text(need), bytes_text(limit)
    return texts if texts[0] != texts[1] else (f"{need} bytes", f"{limit} bytes")


def _choice(candidate: Candidate) -> str:
    recompute = candidate.recompute
    if recompute is None:
        return f"kernels run in the order {candidate.order}"
    if recompute.parts:
        return f"contractions are recomputed, in {recompute.parts} parts of the net"
    return f"recomputation is {recompute.mode}"


def _at_peak(plan: Plan) -> list[str]:
    report = plan_report(plan)
    alive = report.at_peak()
    lines = []
    for stored in alive[:MOST_LISTED]:
        loc = plan.launches[stored.first].loc
        lines.append(f"at the peak {stored.title} takes {bytes_text(stored.bytes)}" + (f", {loc}" if loc else ""))
    rest = alive[MOST_LISTED:]
    if rest:
        lines.append(f"at the peak {len(rest)} more take {bytes_text(sum(s.bytes for s in rest))}")
    return lines
