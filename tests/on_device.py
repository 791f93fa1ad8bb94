"""Plans of the target cuda through its driver: on a device where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.loops.plan import Plan
from concatc.targets.cuda.device.cuda_driver import cuda_driver
from concatc.targets.cuda.device.driver import Driver
from concatc.targets.cuda.device.memory import DeviceMemory
from concatc.targets.cuda.device.step import DeviceStep
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.ptx import require_compiler
from concatc.targets.reference.plan_interpreter import BaseMemory

Open = Callable[[], Driver]


def why_not() -> str:
    """Why there is no device to run on; empty where there is one."""
    try:
        cuda_driver()
        require_compiler()
    except ConcatcError as error:
        return error.diagnostics[0].message
    return ""


def run_bases(plan: Plan, bases: Mapping[str, np.ndarray], phase: str = "step", device: Open = cuda_driver) -> None:
    """Run a plan's device kernels on copies of bases, as one graph, and bring back all bytes."""
    memory, module = DeviceMemory(device), gpu_module(plan)
    there = memory.allocate_all({name: base.nbytes for name, base in bases.items()}, "bases of a test")
    for name, base in bases.items():
        memory.before_write(there[name])
        there[name][...] = base
    DeviceStep(module, memory).run(there, ("forward", "backward", "update") if phase == "step" else (phase,))
    for name, base in bases.items():
        memory.before_read(there[name])
        base[...] = there[name]


def run_on_device(
    plan: Plan, values: Mapping[str, np.ndarray], phase: str = "step", device: Open = cuda_driver
) -> BaseMemory:
    """What `tests.emulated.run_emulated` does, on a device."""
    memory = BaseMemory(plan)
    for key, value in values.items():
        memory.set(key, value)
    run_bases(plan, memory.bases, phase, device)
    spoiled = memory.spoiled()
    assert not spoiled, f"bytes outside all values were written: {', '.join(spoiled)}"
    return memory
