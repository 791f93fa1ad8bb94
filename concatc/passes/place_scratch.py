"""``place-scratch``: give each launch the scratch memory that its loops need.

    launch k4_softmax  reads .. writes ..   ->   launch k4_softmax  reads .. writes ..  scratch arena+65536 [512]

Scratch is a part of the plan, so that the checker sees it and no kernel allocates.  Invariant: every launch that needs
scratch has it, aligned to 64 bytes, behind all values of the arena; launches run one after the other and share it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from concatc.loops.plan import ALIGN_BYTES, Base, Plan, Window
from concatc.passes.lower_to_loops import scratch_bytes


@dataclass(frozen=True)
class PlaceScratch:
    """Place scratch memory; launches that have some keep it."""

    name = "place-scratch"

    def run(self, plan: Plan) -> Plan:
        """The plan with scratch."""
        return place_scratch(plan)


def place_scratch(plan: Plan) -> Plan:
    """The plan with scratch at the end of its arena."""
    needs = {name: scratch_bytes(kernel) for name, kernel in plan.kernels.items()}
    most = max((needs[launch.kernel] for launch in plan.launches if launch.scratch is None), default=0)
    if most == 0:
        return plan
    start = plan.bases["arena"].size_bytes if "arena" in plan.bases else 0
    start = -(-start // ALIGN_BYTES) * ALIGN_BYTES
    launches = [
        replace(launch, scratch=Window("arena", start, (needs[launch.kernel],), (1,), "i8"))
        if needs[launch.kernel] and launch.scratch is None
        else launch
        for launch in plan.launches
    ]
    return replace(plan, bases={**plan.bases, "arena": Base("arena", start + most)}, launches=launches)
