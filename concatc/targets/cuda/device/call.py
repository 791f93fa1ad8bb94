"""A step made again as it was made before: inputs into the staging, one graph, losses out of the staging.

    the base inputs there, launches of all phases, losses back     recorded once, one launch of the driver a step

An input is plain as :class:`concatc.targets.call.CallSpec` says.  Where a user holds views that are to show what a step
makes, or launches run one by one, copies and launches are put on the stream each for itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.memory import Array, view
from concatc.loops.plan import Window
from concatc.targets.call import Bounds, CallSpec
from concatc.targets.cuda.device.driver import SYNC
from concatc.targets.cuda.device.memory import PINNED, DeviceMemory, Mirror
from concatc.targets.cuda.device.step import DeviceStep, Graph


class DeviceCall:
    """One call on bases that stay; see :class:`concatc.targets.call.NativeCall`."""

    def __init__(self, step: DeviceStep, memory: DeviceMemory, bases: Mapping[str, Array], spec: CallSpec) -> None:
        self._step, self._memory, self._bases, self._spec = step, memory, bases, spec
        self._inputs = {name: (view(bases[w.base], w), NUMPY_DTYPES[w.dtype]) for name, w in spec.inputs.items()}
        self._results = {name: view(bases[w.base], w) for name, w in spec.results.items()}
        self._staged = [w for w in spec.inputs.values() if w.base != "inputs"]
        # Copies to and from other memory of the host cannot be recorded.
        self._is_pinned = all(w.base in PINNED for w in self._staged)
        self._whole: Graph | None = None
        self._twins = [base.twin for base in bases.values() if isinstance(base, Mirror)]
        self._all_results = _hull(list(spec.results.values()))
        checked = {(b.window.base, b.window.offset_bytes) for b in spec.bounds}
        # What is checked is written first: nothing else is written where it is out of bounds.
        self._order = sorted(
            spec.inputs, key=lambda n: (spec.inputs[n].base, spec.inputs[n].offset_bytes) not in checked
        )

    def call(self, arrays: dict[str, object]) -> dict[str, float] | int | None:
        """Run it; None where an array is not plain."""
        if len(arrays) != len(self._inputs):
            return None
        given: dict[str, Array] = {}
        for name, (staging, dtype) in self._inputs.items():
            array = arrays.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != staging.shape:
                return None
            if not array.flags.c_contiguous or self._is_guarded(array):
                return None
            given[name] = array
        memory, bases = self._memory, self._bases
        memory.before_staging()
        left = len(self._spec.bounds)
        for name in self._order:
            self._inputs[name][0][...] = given[name]
            if left and not all(self._is_within(bounds) for bounds in self._spec.bounds if self._reads(bounds, name)):
                return None
        if not self._replay():
            memory.before_write(bases["inputs"])
            for window in self._staged:
                memory.before_write(bases[window.base], window)
            self._step.run(bases, self._spec.phases)
            if self._all_results is not None:
                memory.before_read(bases[self._all_results.base], self._all_results)
        return {name: float(result) for name, result in self._results.items()}

    def _replay(self) -> bool:
        """Run the step as one graph; False where it cannot be, and nothing ran."""
        if not self._is_pinned or os.environ.get(SYNC) == "1":
            return False
        if self._whole is None:
            self._whole = self._step.whole(self._bases, self._spec.phases, self._copy_in, self._copy_out)
        return self._memory.replay(self._twins, self._whole.handle)

    def _copy_in(self) -> None:
        self._memory.copy_in(self._mirror("inputs"))
        for window in self._staged:
            self._memory.copy_in(self._mirror(window.base), window)

    def _copy_out(self) -> None:
        if self._all_results is not None:
            self._memory.copy_out(self._mirror(self._all_results.base), self._all_results)

    def _mirror(self, name: str) -> Mirror:
        base = self._bases[name]
        assert isinstance(base, Mirror), f"{name} lies on no device"
        return base

    def failure(self, status: int) -> ConcatcError:
        """A launch that fails raises; there is no status."""
        return ConcatcError(f"the step ended with the status {status}")

    def _is_guarded(self, array: Array) -> bool:
        return self._spec.guarded is not None and np.may_share_memory(array, self._bases[self._spec.guarded])

    def _reads(self, bounds: Bounds, name: str) -> bool:
        return bounds.window == self._spec.inputs[name]

    def _is_within(self, bounds: Bounds) -> bool:
        values = view(self._bases[bounds.window.base], bounds.window).reshape(-1)
        for begin, end, step in bounds.ranges:
            part = values[begin:end:step]
            wrong = (part < 0) | (part >= bounds.extent)
            if bounds.ignored is not None:
                wrong &= part != bounds.ignored
            if wrong.any():
                return False
        return True


def _hull(windows: list[Window]) -> Window | None:
    """One window of bytes over all of them."""
    if not windows:
        return None
    begin, end = min(w.offset_bytes for w in windows), max(w.end_bytes for w in windows)
    return Window(windows[0].base, begin, (end - begin,), (1,), "i8")
