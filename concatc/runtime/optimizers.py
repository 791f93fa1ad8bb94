"""Optimizers: what they are to a user, and what a net trained by one holds; `update_plan.py` has their launches.

Learning rate, momentum and decay are run-time scalars in the base ``optimizer``, in front of the slots (velocity,
moments), which are laid out as the parameters are.
"""

from __future__ import annotations

import math
import numbers
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from concatc.diagnostics import UsageError
from concatc.ir.core import Value
from concatc.ir.types import ELEMENT_BYTES, NUMPY_DTYPES
from concatc.loops.memory import Array, view
from concatc.loops.plan import Plan
from concatc.runtime.store import Store
from concatc.runtime.update_plan import UpdateLayout

if TYPE_CHECKING:
    from concatc.op import Builder


class Scalar:
    """A run-time number of an optimizer, checked when it is set: finite, from 0 to ``high``."""

    def __init__(self, high: float = math.inf) -> None:
        self._high = high

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Optimizer, owner: type) -> float:
        value: float = optimizer.__dict__[self._name]
        return value

    def __set__(self, optimizer: Optimizer, value: float) -> None:
        what = f"{type(optimizer).__name__}: {self._name}"
        optimizer.__dict__[self._name] = checked_number(what, value, self._high)
        optimizer.changes += 1


def checked_number(what: str, value: object, high: float = math.inf) -> float:
    """``value`` where it is a finite number from 0 to ``high``; raises UsageError else."""
    wanted = "a finite number, 0 or more" if high == math.inf else f"a number from 0 to {high:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UsageError(f"{what} must be {wanted}, not {value!r}")
    number = float(value)
    if not (math.isfinite(number) and 0.0 <= number <= high):
        raise UsageError(f"{what} must be {wanted}, not {value}")
    return number


class Optimizer(ABC):
    """Base of the optimizers.  One object may train several nets; each net has slots of its own."""

    slots: ClassVar[tuple[str, ...]]
    is_steady: ClassVar[bool] = False  # scalars are the same at each step, as long as none is set
    changes = 0  # how often a scalar was set
    lr = Scalar()
    weight_decay = Scalar()

    @property
    @abstractmethod
    def code_key(self) -> tuple[object, ...]:
        """What changes the generated code; all else is a run-time scalar."""

    @property
    @abstractmethod
    def live_slots(self) -> tuple[str, ...]:
        """The slots that this optimizer needs."""

    @abstractmethod
    def emit(self, b: Builder, p: Value, g: Value, slots: Sequence[Value], hyper: Value) -> tuple[list[Value], Value]:
        """Emit the update of one range: new slots and new parameters."""

    @abstractmethod
    def hyper(self, step: int, lr: float, decay: float) -> list[float]:
        """The scalars of step ``step`` (from 1) for a range with these multipliers."""


class SGD(Optimizer):
    """Gradient descent with momentum: ``v = momentum * v + g + weight_decay * p``, ``p -= lr * v``.

    ``nesterov`` looks ahead along the new velocity (Sutskever et al. 2013).  ``lr``, ``momentum`` and ``weight_decay``
    may be changed between steps: ``opt.lr = 0.01``.  Multipliers of a parameter (``P_lr=``, ``P_decay=``) are honoured.
    Raises UsageError where one is negative, not finite or no number, or a momentum is above 1.
    """

    slots = ("velocity",)
    is_steady = True
    momentum = Scalar(high=1.0)

    def __init__(
        self, lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        if nesterov and momentum == 0.0:
            raise UsageError("SGD(nesterov=True) needs a momentum")
        self._nesterov = nesterov
        self._has_velocity = momentum != 0.0

    def __repr__(self) -> str:
        return (
            f"SGD(lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}, nesterov={self._nesterov})"
        )

    @property
    def code_key(self) -> tuple[object, ...]:
        return ("sgd", self._has_velocity, self._nesterov)

    @property
    def live_slots(self) -> tuple[str, ...]:
        return self.slots if self._has_velocity else ()

    def emit(self, b: Builder, p: Value, g: Value, slots: Sequence[Value], hyper: Value) -> tuple[list[Value], Value]:
        if not self._has_velocity:
            return [], b.sgd_update(p, g, hyper, names=["p_new"])
        velocity = b.sgd_velocity(p, g, slots[0], hyper, names=["v_new"])
        return [velocity], b.sgd_momentum_update(p, g, velocity, hyper, nesterov=self._nesterov, names=["p_new"])

    def hyper(self, step: int, lr: float, decay: float) -> list[float]:
        if self.momentum != 0.0 and not self._has_velocity:
            raise UsageError("this SGD was made without momentum; make a new one to use it")
        return [self.lr * lr, self.momentum, self.weight_decay * decay]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015): ``p -= lr * m / (sqrt(s) + eps)`` with bias-corrected moments ``m`` and ``s``.

    ``weight_decay * p`` is added to the gradient.  ``lr``, ``betas``, ``eps`` and ``weight_decay`` may be changed
    between steps.  Multipliers of a parameter (``P_lr=``, ``P_decay=``) are honoured.
    """

    slots = ("moment", "second_moment")
    eps = Scalar()

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
            raise UsageError(f"Adam: betas are two numbers, not {betas!r}")
        if not all(checked_number("Adam: a beta", beta, high=1.0) < 1.0 for beta in betas):
            raise UsageError(f"Adam: betas must be in [0, 1), not {betas}")
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def __repr__(self) -> str:
        return f"Adam(lr={self.lr}, betas={self.betas}, eps={self.eps}, weight_decay={self.weight_decay})"

    @property
    def code_key(self) -> tuple[object, ...]:
        return ("adam",)

    @property
    def live_slots(self) -> tuple[str, ...]:
        return self.slots

    def emit(self, b: Builder, p: Value, g: Value, slots: Sequence[Value], hyper: Value) -> tuple[list[Value], Value]:
        moment = b.adam_moment(p, g, slots[0], hyper, names=["m_new"])
        second = b.adam_second_moment(p, g, slots[1], hyper, names=["s_new"])
        return [moment, second], b.adam_update(p, moment, second, hyper, names=["p_new"])

    def hyper(self, step: int, lr: float, decay: float) -> list[float]:
        beta1, beta2 = self.betas
        rate = self.lr * lr / (1.0 - beta1**step)
        root = 1.0 / math.sqrt(1.0 - beta2**step)
        return [rate, beta1, beta2, self.eps, self.weight_decay * decay, root]


def kinds() -> tuple[Optimizer, ...]:
    """An optimizer of each kind of code that is here."""
    return SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), Adam()


class OptimizerState:
    """The update of one net by one optimizer: its plan, and its memory (scalars, slots, number of steps)."""

    def __init__(self, optimizer: Optimizer, store: Store) -> None:
        # Who has the optimizer has its state, not the other way round: both are freed when the user is done with it.
        self._own = weakref.ref(optimizer)
        self._is_steady = "is_steady" in vars(type(optimizer)) and optimizer.is_steady  # a subclass may have a schedule
        self.calls: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()  # of an instance, native
        self._layout = layout = UpdateLayout.of(optimizer, store.signature, store.interface)
        if not layout.ranges:
            raise UsageError("the net has no parameter to train")
        self.steps = 0
        self._written = -1  # at how many changes of the optimizer
        self.key = (*optimizer.code_key, layout.ranges)
        self.memory = store.memory
        self.base = self.memory.allocate_all({"slots": layout.size_bytes}, "the optimizer's state")["slots"]
        self._hyper = [view(self.base, layout.hyper_window(k)) for k in range(len(layout.ranges))]
        self.slots = {slot: self._slot_views(store, start) for slot, start in layout.slot_starts.items()}

    def reset(self) -> None:
        """As before the first step."""
        self.steps = 0
        self._written = -1
        self.memory.before_write(self.base)
        self.base[...] = 0

    def set_back(self, steps: int, values: Array) -> None:
        """As it was after that many steps, when ``values`` was a copy of ``base``."""
        self.steps = steps
        self._written = -1
        self.memory.before_write(self.base)
        self.base[...] = values

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self._own()
        assert optimizer is not None, "who runs an update has its optimizer"
        return optimizer

    def write_scalars(self) -> None:
        """Write the scalars of the step that follows ``steps`` others, where they are not there yet."""
        optimizer = self._optimizer
        if self._is_steady and self._written == optimizer.changes:
            return
        for k, (r, scalars) in enumerate(zip(self._layout.ranges, self._hyper, strict=True)):
            self.memory.before_write(self.base, self._layout.hyper_window(k))
            values = optimizer.hyper(self.steps + 1, r.lr, r.decay)
            scalars[: len(values)] = values
        self._written = optimizer.changes

    def plan(self) -> Plan:
        """The launches of the update, one a range, over the bases params, grads and optimizer."""
        return self._layout.plan(self._optimizer)

    def _slot_views(self, store: Store, start: int) -> Mapping[str, Array]:
        views = {}
        for name in store.grads:
            at = store.window("param", name)
            step = ELEMENT_BYTES[at.dtype]
            flat = self.base[start + at.offset_bytes :][: step * store.params[name].size].view(NUMPY_DTYPES[at.dtype])
            views[name] = flat.reshape(at.shape)
        return views
