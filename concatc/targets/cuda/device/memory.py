"""Memory of one net on a device: a block a base, and a host array that stands for each.

    a caller writes an array   ->   dirty: uploaded before the next run
    a run                      ->   stale: downloaded when somebody is going to read it, and what is lent at once

The arrays of inputs and outputs are pinned: they are the staging of what a caller gives and gets.  The others take no
memory of the host where nobody touches them.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.comments import bytes_text
from concatc.loops.memory import Array, view
from concatc.loops.plan import ALIGN_BYTES, Window
from concatc.targets.cuda.device.arrays import exported
from concatc.targets.cuda.device.driver import OUT_OF_MEMORY, Driver, DriverError
from concatc.targets.memory import DeviceArray

PINNED = ("inputs", "outputs")
NORESERVE = 0x4000  # MAP_NORESERVE of Linux: addresses that take no memory until they are touched
Range = tuple[int, int]


class Mirror(np.ndarray[Any, Any]):
    """The host array of a base; ``twin`` is its block on the device, in ``memory``."""

    twin: Twin
    memory: DeviceMemory


class Twin:
    """A block of a device, and what is known of its bytes and those of its host array.

    ``dirty`` ranges are newer here; but for ``fresh`` ones all is newer there, once it was run on.
    """

    def __init__(self, mirror: Mirror, address: int) -> None:
        self.address = address
        # The array holds the twin, not the other way round: both are freed when nobody views the array.
        self._mirror = weakref.ref(mirror)
        self.dirty: list[Range] = []
        self.fresh: list[Range] = []
        self.is_stale = False
        self.lent: list[tuple[weakref.ref[Array], Range]] = []

    def host(self, part: Range) -> Array:
        """Bytes of the host array."""
        mirror = self._mirror()
        assert mirror is not None, "who uses a block has its array"
        return mirror.view(np.ndarray)[part[0] : part[1]]

    def is_fresh(self, part: Range) -> bool:
        """Whether the host array holds what the device has there."""
        return not self.is_stale or any(begin <= part[0] and part[1] <= end for begin, end in self.fresh)


class DeviceMemory:
    """The bases of one net on a device, and the stream that they are used on.  The device is opened at the first base.

    See :class:`concatc.targets.memory.Memory`.
    """

    def __init__(self, open_driver: Callable[[], Driver]) -> None:
        self._open = open_driver
        self._lock = threading.RLock()
        self._opened: tuple[Driver, int] | None = None
        self._is_reading = False  # the device may still read pinned arrays

    @property
    def driver(self) -> Driver:
        """The device's driver; raises :class:`UsageError` where there is none."""
        return self._device()[0]

    @property
    def stream(self) -> int:
        """Where all work of the net is put."""
        return self._device()[1]

    def _device(self) -> tuple[Driver, int]:
        with self._lock:
            if self._opened is None:
                driver = self._open()
                with driver.entered():
                    stream = driver.stream()
                weakref.finalize(self, driver.free_stream, stream)
                self._opened = driver, stream
            return self._opened

    # -- blocks --------------------------------------------------------------------------------------------------------
    def allocate_all(self, size_bytes: Mapping[str, int], what: str) -> dict[str, Array]:
        """A block a base, and its host array, both zeros."""
        self.check_free(size_bytes, what)
        try:
            return {name: self._allocate(n, name in PINNED) for name, n in size_bytes.items()}
        except DriverError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise UsageError(self._no_memory(size_bytes, what, ())) from None

    def check_free(self, size_bytes: Mapping[str, int], what: str, notes: tuple[str, ...] = ()) -> None:
        """See :class:`Memory`."""
        driver = self.driver
        with driver.entered():
            free, _ = driver.memory_info()
        if sum(size_bytes.values()) > free:
            raise UsageError(self._no_memory(size_bytes, what, notes))

    def block(self, size_bytes: int) -> Block:
        """A block without a host array, of zeros."""
        block = Block()
        block.address = self._block(size_bytes, block)
        return block

    def _allocate(self, size_bytes: int, pinned: bool) -> Array:
        driver = self.driver
        with driver.entered():
            if not size_bytes:
                host = np.zeros(0, np.uint8)
            elif pinned:
                host = driver.allocate_host(size_bytes)
                host[...] = 0
            else:
                host = _untouched(size_bytes)
        mirror = host.view(Mirror)
        mirror.memory = self
        mirror.twin = Twin(mirror, self._block(size_bytes, mirror))
        return mirror

    def _block(self, size_bytes: int, owner: object) -> int:
        """The address of zeros that are freed with ``owner``."""
        if not size_bytes:
            return 0
        driver = self.driver
        with driver.entered():
            address = driver.allocate(size_bytes)
            weakref.finalize(owner, driver.free, address)
            driver.clear(address, size_bytes, self.stream)
        return address

    def _no_memory(self, size_bytes: Mapping[str, int], what: str, notes: tuple[str, ...]) -> Diagnostic:
        driver = self.driver
        with driver.entered():
            free, total = driver.memory_info()
        parts = ", ".join(f"{name} {bytes_text(n)}" for name, n in size_bytes.items() if n)
        needed = bytes_text(sum(size_bytes.values()))
        return Diagnostic(
            f"no memory on {driver.device} for {needed} of {what}: {bytes_text(free)} of {bytes_text(total)} are free",
            notes=(parts, *notes),
            help="choose a smaller batch size, or a budget: max_memory=.. (--max-memory) recomputes what does not fit",
        )

    # -- agreement -----------------------------------------------------------------------------------------------------
    def before_read(self, base: Array, window: Window | None = None) -> None:
        """Have the host array hold what is on the device."""
        if not isinstance(base, Mirror):
            return
        twin, part = base.twin, _part(base, window)
        with self._lock:
            if twin.is_fresh(part) or part[0] == part[1]:
                return
            with self.driver.entered():
                self._upload([twin])  # what was written here is not to be overwritten
                self.driver.download(twin.host(part), twin.address + part[0], self.stream)
            twin.fresh.append(part)
            self.synchronize()

    def before_write(self, base: Array, window: Window | None = None) -> None:
        """Upload these bytes before the next run."""
        if not isinstance(base, Mirror):
            return
        with self._lock:
            if self._is_reading:
                self.synchronize()
            base.twin.dirty.append(_part(base, window))

    def lend(self, base: Array, window: Window, given: Array) -> Array:
        """A view that holds what is on the device, and what is written to it is there at the next run."""
        with self._lock:
            self.before_read(base, window)
            self.before_write(base, window)
            lent = view(base, window)
            if isinstance(base, Mirror):
                base.twin.lent.append((weakref.ref(lent), _part(base, window)))
            return lent

    # -- arrays of callers ---------------------------------------------------------------------------------------------
    def device_array(self, given: object) -> DeviceArray | None:
        """See :class:`Memory`: what has a ``__cuda_array_interface__``."""
        found = exported(given)
        if found is None:
            return None
        driver = self.driver
        with self._lock, driver.entered():
            if found.array.nbytes and not driver.holds(found.array.address):
                raise TypeError(f"it does not lie on {driver.device}, the device that runs the net")
            if found.stream is not None:
                driver.wait_for(self.stream, found.stream)
        return found.array

    def put(self, base: Array, window: Window, array: DeviceArray) -> None:
        """See :class:`Memory`."""
        assert isinstance(base, Mirror)
        if not array.nbytes:
            return
        with self._lock, self.driver.entered():
            self._upload([base.twin])  # what was written here before is not to come behind it
            begin, end = _part(base, window)
            self.driver.copy(base.twin.address + begin, array.address, end - begin, self.stream)
            base.twin.is_stale, base.twin.fresh = True, []
            self._is_reading = True

    def fetch(self, array: DeviceArray) -> Array:
        """See :class:`Memory`."""
        host = np.empty(array.shape, array.dtype)
        if array.nbytes:
            with self._lock, self.driver.entered():
                self.driver.download(host.reshape(-1).view(np.uint8), array.address, self.stream)
                self.synchronize()
        return host

    # -- runs ----------------------------------------------------------------------------------------------------------
    @contextmanager
    def running(self, bases: Iterable[Array]) -> Iterator[None]:
        """A run on bases: before it they hold what was written here, behind it what is lent holds what it made."""
        twins = [base.twin for base in bases if isinstance(base, Mirror)]
        with self._lock, self.driver.entered():
            self._upload(twins)
            yield
            for twin in twins:
                twin.is_stale, twin.fresh = True, []
                twin.lent = [(lent, part) for lent, part in twin.lent if lent() is not None]
                for _, part in twin.lent:
                    self.driver.download(twin.host(part), twin.address + part[0], self.stream)
                    twin.dirty.append(part)
                    twin.fresh.append(part)
            if any(twin.lent for twin in twins):
                self.synchronize()

    def replay(self, twins: Iterable[Twin], graph: int) -> bool:
        """Launch a recorded step on blocks, its copies within it, and wait; False, and nothing ran, where views of
        them are lent.
        """
        with self._lock, self.driver.entered():
            if any(lent() is not None for twin in twins for lent, _ in twin.lent):
                return False
            self._upload(twins)
            self.driver.launch_graph(graph, self.stream)
            self.driver.synchronize(self.stream)
            self._is_reading = False
            for twin in twins:
                twin.is_stale = True
                if twin.fresh or twin.lent:
                    twin.fresh, twin.lent = [], []
            return True

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Nothing else is put on the stream in here."""
        with self._lock, self.driver.entered():
            yield

    def before_staging(self) -> None:
        """Pinned arrays are going to be written, all of which a recorded step copies."""
        if self._is_reading:
            self.synchronize()

    def copy_in(self, base: Mirror, window: Window | None = None) -> None:
        """Put the upload of a window on the stream, for a recorded step."""
        part = _part(base, window)
        if part[0] < part[1]:
            self.driver.upload(base.twin.address + part[0], base.twin.host(part), self.stream)

    def copy_out(self, base: Mirror, window: Window) -> None:
        """Put the download of a window on the stream, for a recorded step."""
        part = _part(base, window)
        self.driver.download(base.twin.host(part), base.twin.address + part[0], self.stream)

    def synchronize(self) -> None:
        """Wait for the device."""
        with self._lock, self.driver.entered():
            self._is_reading = False
            self.driver.synchronize(self.stream)

    def _upload(self, twins: Iterable[Twin]) -> None:
        for twin in twins:
            if not twin.dirty:
                continue
            for part in _merged(twin.dirty):
                self.driver.upload(twin.address + part[0], twin.host(part), self.stream)
                self._is_reading = True
            twin.dirty = []


class Block:
    """Memory of the device, freed with this object."""

    address: int


def _part(base: Array, window: Window | None) -> Range:
    return (0, base.nbytes) if window is None else (window.offset_bytes, max(window.end_bytes, window.offset_bytes))


def _merged(parts: Iterable[Range]) -> list[Range]:
    """The ranges in order, neighbours as one: what aligns the second of them belongs to nobody."""
    merged: list[Range] = []
    for begin, end in sorted(parts):
        if begin == end:
            continue
        if merged and begin - merged[-1][1] < ALIGN_BYTES:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _untouched(size_bytes: int) -> Array:
    """Zeros that take no memory before they are touched."""
    if sys.platform != "linux":
        return np.zeros(size_bytes, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE), np.uint8)
