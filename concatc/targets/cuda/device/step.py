"""Launches of a net on a device: one graph for the phases that run together.

    forward, backward, update on these bases   --captured once-->   a graph   --each step-->   one launch

A graph holds addresses, so there is one for each set of bases that a net runs on.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.loops.memory import Array
from concatc.targets.cuda.device.driver import (
    INVALID_PTX,
    NO_BINARY_FOR_GPU,
    SYNC,
    UNSUPPORTED_PTX,
    Driver,
    DriverError,
    Parameters,
)
from concatc.targets.cuda.device.memory import Block, DeviceMemory, Mirror
from concatc.targets.cuda.launches import SCRATCH, GpuLaunch, GpuModule, Pointer

MOST_GRAPHS = 8  # of one code; a net at another batch size, in grown memory, has others
Phases = tuple[str, ...]
Images = Callable[[Driver], Mapping[str, bytes]]  # code by kernel


@dataclass(eq=False)
class Graph:
    """A recorded step, given back with this object."""

    handle: int
    launches: int


class DeviceStep:
    """The launches of a module on the device of a memory, loaded when they first run."""

    def __init__(self, module: GpuModule, memory: DeviceMemory, images: Images | None = None) -> None:
        self._module = module
        self._images = images or (lambda driver: driver.images(module))
        self.memory = memory
        self._functions: dict[str, int] = {}
        scratch = {SCRATCH: module.bases.get(SCRATCH, 0)}
        memory.check_free(scratch, "what kernels of one launch hand to each other")
        self._scratch: Block = memory.block(scratch[SCRATCH])
        self._graphs: dict[tuple[Phases, tuple[int, ...]], Graph] = {}

    def run(self, bases: Mapping[str, Array], phases: Phases) -> None:
        """Run the launches of some phases; returns before they are done."""
        addresses = self._addresses(bases)
        driver, stream = self.memory.driver, self.memory.stream
        with self.memory.running(bases[name] for name in self._module.bases if name in bases):
            if os.environ.get(SYNC) == "1":
                self._one_by_one(driver, stream, addresses, phases)
                return
            graph = self._graph(driver, stream, addresses, phases)
            if graph.launches:
                driver.launch_graph(graph.handle, stream)

    def whole(
        self, bases: Mapping[str, Array], phases: Phases, before: Callable[[], None], behind: Callable[[], None]
    ) -> Graph:
        """Phases with the copies in front of and behind them as one graph on these bases."""
        driver, stream = self.memory.driver, self.memory.stream
        with self.memory.recording():
            return self._record(driver, stream, self._addresses(bases), phases, before, behind)

    def timed(self, bases: Mapping[str, Array], phases: Phases) -> list[float]:
        """Run phases launch by launch; milliseconds from before the first one to behind each."""
        addresses = self._addresses(bases)
        driver, stream = self.memory.driver, self.memory.stream
        with self.memory.running(bases[name] for name in self._module.bases if name in bases):
            launches = self._of(phases)
            marks = [driver.event() for _ in range(len(launches) + 1)]
            driver.record(marks[0], stream)
            for launch, mark in zip(launches, marks[1:], strict=True):
                self._launch(driver, stream, addresses, launch)
                driver.record(mark, stream)
            driver.synchronize(stream)
            taken = [driver.elapsed_ms(marks[0], mark) for mark in marks[1:]]
            for mark in marks:
                driver.free_event(mark)
            return taken

    # -- launches ------------------------------------------------------------------------------------------------------
    def _of(self, phases: Phases) -> Sequence[GpuLaunch]:
        return [launch for phase in phases for launch in self._module.launches if launch.phase == phase]

    def _graph(self, driver: Driver, stream: int, addresses: Mapping[str, int], phases: Phases) -> Graph:
        key = (phases, tuple(addresses.values()))
        found = self._graphs.pop(key, None)
        if found is None:
            found = self._record(driver, stream, addresses, phases)
        self._graphs[key] = found  # the one used last stands last
        if len(self._graphs) > MOST_GRAPHS:
            self.memory.synchronize()
            del self._graphs[next(iter(self._graphs))]
        return found

    def _record(
        self,
        driver: Driver,
        stream: int,
        addresses: Mapping[str, int],
        phases: Phases,
        before: Callable[[], None] = lambda: None,
        behind: Callable[[], None] = lambda: None,
    ) -> Graph:
        """A graph of launches, and of the copies that ``before`` and ``behind`` put on the stream."""
        launches = self._of(phases)
        for launch in launches:
            self._function(driver, launch.kernel)  # loading is no work for a stream
        driver.begin_capture(stream)
        try:
            before()
            for launch in launches:
                self._launch(driver, stream, addresses, launch)
            behind()
        finally:
            handle = driver.end_capture(stream)
        graph = Graph(handle, len(launches))
        weakref.finalize(graph, driver.free_graph, handle)
        return graph

    def _one_by_one(self, driver: Driver, stream: int, addresses: Mapping[str, int], phases: Phases) -> None:
        """Wait for each launch, so that a fault is that launch's."""
        for launch in self._of(phases):
            try:
                self._launch(driver, stream, addresses, launch)
                driver.synchronize(stream)
            except DriverError as error:
                given = f"grid {launch.grid}, block {launch.block}, arguments {', '.join(map(str, launch.arguments))}"
                raise ConcatcError(
                    Diagnostic(
                        f"the kernel {launch.kernel} of the {launch.phase} pass failed with {error.name}: {error.text}",
                        notes=(f"line {launch.line}", given) if launch.line else (given,),
                        help="the device is of no use to this process any more; compute-sanitizer says which access",
                    )
                ) from None

    def _launch(self, driver: Driver, stream: int, addresses: Mapping[str, int], launch: GpuLaunch) -> None:
        values = [
            addresses[value.base] + value.offset_bytes if isinstance(value, Pointer) else value
            for value in launch.arguments
        ]
        parameters = Parameters.of(values, self._module.signatures[launch.kernel])
        driver.launch(self._function(driver, launch.kernel), launch.grid, launch.block, parameters, stream)

    def _function(self, driver: Driver, kernel: str) -> int:
        if not self._functions:
            images = self._images(driver)
            self._functions = {name: load(driver, image, name) for name, image in images.items()}
            weakref.finalize(self, driver.unload, list(self._functions.values()))
        return self._functions[kernel]

    def _addresses(self, bases: Mapping[str, Array]) -> dict[str, int]:
        found = {SCRATCH: self._scratch.address}
        for name, size_bytes in self._module.bases.items():
            base = bases.get(name)
            if name == SCRATCH:
                continue
            if (0 if base is None else base.nbytes) < size_bytes:
                held = 0 if base is None else base.nbytes
                raise ConcatcError(f"the base {name} has {held} bytes where the step needs {size_bytes}")
            found[name] = base.twin.address if isinstance(base, Mirror) else 0
        return found


def load(driver: Driver, image: bytes, kernel: str) -> int:
    """A kernel of device code.  Raises :class:`ConcatcError` where it is none for this device."""
    try:
        return driver.load(image, kernel)
    except DriverError as error:
        if error.code not in (NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX):
            raise
        raise ConcatcError(
            Diagnostic(
                f"the kernel {kernel} has no code for {driver.device}, which is {driver.arch}: {error.name}",
                help="the driver is older than the compiler, or the code was made for another device: "
                "`concatc cache clear` has it made again, a newer driver or an older `nvidia-nvvm` may be needed",
            )
        ) from None
