"""What has run, and what may follow: a backward pass belongs to the forward pass before it.

`backward` follows the last `forward`.  Whatever changes parameters, or the memory of a step, in between makes it stale,
and the error says what that was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from concatc.diagnostics import UsageError
from concatc.runtime.instance import Instance
from concatc.runtime.prepared import Prepared
from concatc.runtime.watch import Watch
from concatc.targets import Executable

Kind = Literal["forward", "train_step", "eval"]
NO_FORWARD = "backward() needs a forward() before it"
STEP_RAN = f"{NO_FORWARD}; train_step() ran both"


@dataclass
class Generations:
    """What a net and its views at other dims (`with_dims`) share and change."""

    initialised: bool = False
    seed: int = 0
    steps: int = 0
    pending: Instance | None = None  # the forward pass that a backward() may follow
    last: Instance | None = None  # what ran last in the training phase: its kept blobs are in memory
    stale: str = NO_FORWARD
    has_grads: bool = False  # gradients that no step has used
    ready: dict[Kind, Prepared] = field(default_factory=dict)  # calls that may be made again, as they were
    watch: Watch = field(default_factory=Watch)

    def use(self, instance: Instance) -> None:
        """A plan takes the memory of its phase: what other plans have written there is lost."""
        for kind in [k for k, p in self.ready.items() if p.instance.phase == instance.phase]:
            if self.ready[kind].instance is not instance:
                del self.ready[kind]

    def run_with(self, instance: Instance, executable: Executable) -> None:
        """Code is going to run; what was prepared for code of another plan is lost."""
        if instance.use(executable):
            for kind in [k for k, p in self.ready.items() if p.instance is instance]:
                del self.ready[kind]

    def loss_weights_changed(self) -> None:
        """What was prepared has the old ones in memory."""
        self.ready.clear()

    def begin(self, instance: Instance) -> None:
        """A call begins, whose inputs are right; it may fail yet."""
        self.use(instance)
        if instance.phase == "train":
            self.outdate("the forward pass before it did not finish")
            self.last = instance

    def forward_ran(self, instance: Instance) -> None:
        """A backward pass may follow."""
        self.steps += 1
        self.pending = instance
        self.watch.mark()

    def step_ran(self, updated: bool) -> None:
        """Forward, backward and maybe an update ran in one call."""
        self.has_grads = not updated
        self.steps += 1
        # `begin` has outdated the forward pass already, where the call was not the one of before.
        self.pending, self.stale = None, STEP_RAN

    def profiled(self) -> None:
        """Steps of a profile ran in the memory of training."""
        self.pending, self.stale = None, "profile() ran steps of its own; run forward() again before backward()"

    def backward_ran(self) -> None:
        """There are gradients."""
        self.has_grads = True
        self.outdate("backward() ran already; run forward() before the next backward()")

    def take_pending(self) -> tuple[Instance, Executable]:
        """The forward pass that a backward pass may follow now; raises :class:`UsageError` where there is none."""
        if self.pending is not None and (changed := self.watch.changed()):
            self.outdate(f"the {changed} changed after forward(); run forward() again before backward()")
        if self.pending is None or self.pending.executable is None:
            raise UsageError(self.stale)
        return self.pending, self.pending.executable

    def parameters_changed(self) -> None:
        """They are not those of the last forward pass any more."""
        self.outdate("the parameters changed after forward(); run forward() again before backward()")

    def outdate(self, why: str) -> None:
        """No backward pass may follow the last forward pass."""
        if self.pending is not None:
            self.pending = None
            self.stale = why
