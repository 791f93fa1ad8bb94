"""The owner of every byte: a plan run on names instead of numbers, and compared with the net.

Each element of each value has a number of its own: arguments by name and index, results of an op by the op, the numbers
of all its operands and the index.  Ops that only move elements (concat, slice, ..) move numbers; ``accumulate`` adds
them, ``add(a, b) = add(b, a)`` as in floating point, but ``add(add(a, b), c) != add(a, add(b, c))``.  The net is run on
such numbers, then the plan: each launch reads the bytes of its windows and writes the numbers of its results there.

A byte that was overwritten, never written, added in another order or read from a wrong place gives a number that the
net does not have, so the first wrong launch is found, and what it read instead is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.bases import ARGUMENT_BASES, argument_key, is_staged, result_keys
from concatc.loops.plan import Launch, Plan, Segment, Window
from concatc.op import is_op, op_of

Array = np.ndarray[Any, Any]
Numbers = np.ndarray[Any, np.dtype[np.uint64]]

MOVES = ("concat", "slice", "split", "reshape", "flatten", "transpose")
FORWARD_RESULTS = ("output", "loss", "total", "kept", "state")
ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def check_values(plan: Plan, net: FuncOp | None) -> list[Diagnostic]:
    """What is wrong with the values that a plan computes; at most one launch is reported, as later errors follow."""
    meaning = _Meaning()
    if net is not None:
        meaning.run_net(net)
    memory = _Memory(plan)
    errors = memory.place_arguments(net)
    if errors:
        return errors
    forward_done = step_done = False
    for k, launch in enumerate(plan.launches):
        if launch.phase != "forward" and not forward_done:
            forward_done = True
            errors = memory.compare(meaning, FORWARD_RESULTS, "at the end of the forward phase")
            if errors:
                return errors
        if launch.phase == "update" and not step_done:
            step_done = True
            errors = memory.compare(meaning, None, "before the update")
            if errors:
                return errors
            memory.place_kept()
        errors = memory.run_launch(k, launch, meaning)
        if errors:
            return errors
    return memory.compare(meaning, None, "at the end of the step") if not step_done else []


# -- numbers ------------------------------------------------------------------------------------------------------


def _mix(x: Numbers) -> Numbers:
    """Spread 64 bits over 64 bits (splitmix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> SHIFTS[0])) * ODD[1]
        x = (x ^ (x >> SHIFTS[1])) * ODD[2]
        return np.asarray(x ^ (x >> SHIFTS[2]) | np.uint64(1), np.uint64)


def _add(a: Numbers, b: Numbers) -> Numbers:
    low, high = np.minimum(a, b), np.maximum(a, b)
    with np.errstate(over="ignore"):
        return _mix(low * ODD[0] + _mix(high))


def _fresh(label: Iterable[bytes], shape: Sequence[int]) -> Numbers:
    digest = hashlib.blake2b(digest_size=8)
    for part in label:
        digest.update(part)
    start = np.frombuffer(digest.digest(), np.uint64)[0]
    index = np.arange(int(np.prod(shape)), dtype=np.uint64).reshape(shape)
    with np.errstate(over="ignore"):
        return _mix(start + index * ODD[0])


def _digest(numbers: Numbers) -> bytes:
    shape = repr(numbers.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(numbers).tobytes() + shape, digest_size=16).digest()


def _argument_numbers(key: str, shape: Sequence[int]) -> Numbers:
    return _fresh([b"argument ", key.encode()], shape)


# -- what the net means ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A kernel of the net: its form, and the names and digests of its operands."""

    form: tuple[object, ...]
    names: tuple[str, ...]
    digests: tuple[bytes, ...]


@dataclass
class _Meaning:
    """The numbers of all values of the net."""

    values: list[tuple[str, Numbers]] = field(default_factory=list)
    results: dict[str, Numbers] = field(default_factory=dict)
    calls: list[_Call] = field(default_factory=list)
    known: Numbers = field(default_factory=lambda: np.zeros(0, np.uint64))

    def run_net(self, net: FuncOp) -> None:
        args = [_argument_numbers(argument_key(a), a.shape) for a in net.args]
        numbers = self.run(net.body, args, record=True)
        for key, value in zip(result_keys(net), numbers, strict=True):
            self.results.setdefault(key, value)
        everything = [n.ravel() for _, n in self.values]
        self.known = np.unique(np.concatenate(everything)) if everything else self.known

    def run(self, block: Block, args: Sequence[Numbers], record: bool = False) -> list[Numbers]:
        env: dict[Value, Numbers] = dict(zip(block.args, args, strict=True))
        if record:
            self.values += [(value.name, n) for value, n in env.items()]
        for op in block.ops:
            operands = [env[v] for v in op.operands]
            if op.name in ("func.return", "cnet.yield"):
                return operands
            results = self.apply(op, operands, record)
            env.update(zip(op.results, results, strict=True))
            if not record:
                continue
            self.values += [(value.name, n) for value, n in zip(op.results, results, strict=True)]
            if op.name == "cnet.kernel":
                names = tuple(v.name for v in op.operands)
                self.calls.append(_Call(_form(op.regions[0].block), names, tuple(map(_digest, operands))))
        raise AssertionError("a block ends in func.return or cnet.yield")

    def apply(self, op: Operation, operands: list[Numbers], record: bool) -> list[Numbers]:
        if op.name == "cnet.kernel":
            return self.run(op.regions[0].block, operands)
        if is_op(op, *MOVES):
            return [np.asarray(n, np.uint64) for n in op_of(op).reference(*operands)]
        if is_op(op, "accumulate"):
            total = operands[0]
            for k, n in enumerate(operands[1:], 2):
                total = _add(total, n)
                if record:
                    self.values.append((f"{op.result.name} (the first {k} contributions)", total))
            return [total]
        # A dense f32 and f64 op of equal operands differ by the operands' own numbers.
        label = [f"{op.name} {op_of(op).attrs()!r}".encode(), *(_digest(n) for n in operands)]
        return [_fresh([*label, b"result %d" % k], value.shape) for k, value in enumerate(op.results)]

    def knows(self, numbers: Numbers) -> bool:
        """Whether all numbers are elements of values of the net."""
        if self.known.size == 0:
            return numbers.size == 0
        at = np.minimum(np.searchsorted(self.known, numbers), self.known.size - 1)
        return bool((self.known[at] == numbers).all())

    def describe(self, number: int) -> str:
        """Which element a number is: ``%h[3, 4]``."""
        for name, numbers in self.values:
            at = np.argwhere(numbers == np.uint64(number))
            if len(at):
                return f"%{name}{[int(i) for i in at[0]]}"
        return "a value that the net does not have"

    def expected(self, kernel: FuncOp, digests: Sequence[bytes]) -> tuple[int, str] | None:
        """The operand that is most likely wrong and its name, from the kernel of the net that reads the most alike."""
        form = _form(kernel.body)
        calls = [call for call in self.calls if call.form == form]
        if not calls:
            return None
        best = max(calls, key=lambda call: sum(a == b for a, b in zip(digests, call.digests, strict=True)))
        wrong = [k for k, (a, b) in enumerate(zip(digests, best.digests, strict=True)) if a != b]
        return (wrong[0], best.names[wrong[0]]) if wrong else None


def _form(block: Block) -> tuple[object, ...]:
    """What tells kernels apart roughly: types of arguments, names of operations."""
    return (*(a.type for a in block.args), *(op.name for op in block.ops[:-1]))


# -- what the plan does -----------------------------------------------------------------------------------------------


class _Memory:
    """The number of each byte of each base (0: never written), and the launch that wrote it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.owner: dict[str, Array] = {b.name: np.zeros(b.size_bytes, np.uint64) for b in plan.bases.values()}
        self.writer: dict[str, Array] = {b.name: np.full(b.size_bytes, -1, np.int32) for b in plan.bases.values()}
        self.arguments: dict[str, Numbers] = {}

    def place_arguments(self, net: FuncOp | None) -> list[Diagnostic]:
        if net is not None:
            shapes = {argument_key(a): a.shape for a in net.args}
        else:
            keys = [key for key in self.plan.values if key.partition(":")[0] in ARGUMENT_BASES]
            shapes = {key: _value_shape(self.plan.values[key]) for key in keys}
        missing = [key for key in shapes if key not in self.plan.values]
        if missing:
            return [Diagnostic(f"the plan has no place for {', '.join(missing)}")]
        for key, shape in shapes.items():
            self.arguments[key] = _argument_numbers(key, shape)
            for segment in self.plan.values[key]:
                self.store(segment.window, _part(self.arguments[key], segment), -1)
        return []

    def may_change(self, key: str) -> bool:
        """Whether launches may store over an argument: the net reads it for the last time, or gives it a new value."""
        return key.startswith("state:") or is_staged(key, self.plan.values[key][0].window)

    def place_kept(self) -> None:
        """What an update reads and no step makes: an optimizer's state, and the gaps between parameters or gradients.

        Both are there, as zeros, from the start.
        """
        within_values = {name: np.zeros(owner.size, bool) for name, owner in self.owner.items()}
        for key, segments in self.plan.values.items():
            for segment in segments if key.partition(":")[0] in ("param", "grad") else ():
                self.bytes_of(within_values, segment.window)[...] = True
        for launch in self.plan.phase("update"):
            for window in launch.reads:
                if window.base not in ("params", "grads", "optimizer"):
                    continue
                found = self.bytes_of(self.owner, window)
                is_gap = ~self.bytes_of(within_values, window).any(-1) & (found == 0).all(-1)
                within = np.arange(ELEMENT_BYTES[window.dtype], dtype=np.uint64)
                with np.errstate(over="ignore"):
                    found[is_gap] = (_fresh([b"kept", repr(window).encode()], window.shape)[..., None] + within)[is_gap]

    def bytes_of(self, memory: dict[str, Array], window: Window) -> Array:
        """A view ``[.., itemsize]`` of one number a byte."""
        step = ELEMENT_BYTES[window.dtype]
        flat = memory[window.base]
        size = flat.itemsize
        strides = (*(s * step * size for s in window.strides), size)
        origin = flat[window.offset_bytes :] if 0 not in window.shape else flat[:0]
        return np.lib.stride_tricks.as_strided(origin, (*window.shape, step), strides)

    def store(self, window: Window, numbers: Numbers, launch: int) -> None:
        within = np.arange(ELEMENT_BYTES[window.dtype], dtype=np.uint64)
        with np.errstate(over="ignore"):
            self.bytes_of(self.owner, window)[...] = numbers[..., None] + within
        self.bytes_of(self.writer, window)[...] = launch

    def load(self, window: Window) -> tuple[Numbers, str | None]:
        """The numbers of a window's elements, and what is wrong with them."""
        bytes = self.bytes_of(self.owner, window)
        numbers = bytes[..., 0].copy()
        if 0 in window.shape:
            return numbers, None
        unwritten = np.argwhere((bytes == 0).any(-1))
        if len(unwritten):
            return numbers, f"element {_index(unwritten[0])} was never written"
        within = np.arange(ELEMENT_BYTES[window.dtype], dtype=np.uint64)
        with np.errstate(over="ignore"):
            torn = np.argwhere((bytes != numbers[..., None] + within).any(-1))
        if len(torn):
            return numbers, f"element {_index(torn[0])} is torn: its bytes were written as parts of several elements"
        return numbers, None

    def run_launch(self, k: int, launch: Launch, meaning: _Meaning) -> list[Diagnostic]:
        def error(message: str, notes: Sequence[str] = ()) -> list[Diagnostic]:
            return [Diagnostic(f"launch {k} @{launch.kernel}: {message}", launch.loc, tuple(notes))]

        reads: list[Numbers] = []
        for r, window in enumerate(launch.reads):
            numbers, wrong = self.load(window)
            if wrong:
                return error(f"read {r} of {_where(window)}: {wrong}")
            reads.append(numbers)
        results = meaning.run(self.plan.kernels[launch.kernel].body, reads)
        written: list[Numbers] = []
        for w, (window, numbers, add) in enumerate(zip(launch.writes, results, launch.add, strict=True)):
            if not add:
                written.append(numbers)
                continue
            old, wrong = self.load(window)
            if wrong:
                return error(f"write {w} adds to {_where(window)}: {wrong}")
            written.append(_add(old, numbers))
        notes = self.unknown(launch, reads, written, meaning) if launch.phase != "update" else []
        if notes:
            return error("computes a value that the net does not have", notes)
        if launch.scratch is not None:
            self.bytes_of(self.owner, launch.scratch)[...] = 0
        for window, numbers in zip(launch.writes, written, strict=True):
            self.store(window, numbers, k)
        return []

    def unknown(self, launch: Launch, reads: list[Numbers], written: list[Numbers], meaning: _Meaning) -> list[str]:
        """Notes on the first written number that the net does not have; none where all is well or no net is given."""
        if not meaning.values:
            return []
        strange = [w for w, n in enumerate(written) if not meaning.knows(n)]
        if not strange:
            return []
        if launch.add[strange[0]]:
            old, _ = self.load(launch.writes[strange[0]])
            return [f"write {strange[0]} adds to {self.describe(launch.writes[strange[0]], old, meaning)}"]
        notes = [f"read {r} is {self.describe(launch.reads[r], n, meaning)}" for r, n in enumerate(reads)]
        guess = meaning.expected(self.plan.kernels[launch.kernel], [_digest(n) for n in reads])
        return [*notes, f"read {guess[0]} should be %{guess[1]}"] if guess else notes

    def describe(self, window: Window, numbers: Numbers, meaning: _Meaning) -> str:
        if numbers.size == 0:
            return "empty"
        writers = self.bytes_of(self.writer, window)[..., 0].ravel()
        first, last = (meaning.describe(int(numbers.ravel()[at])) for at in (0, -1))
        by = ", ".join("the caller" if w < 0 else f"launch {w}" for w in dict.fromkeys(writers.tolist()))
        return f"{first} to {last}, written by {by}"

    def compare(self, meaning: _Meaning, kinds: Sequence[str] | None, when: str) -> list[Diagnostic]:
        """Whether results stand in their places, and arguments are unchanged; inputs elsewhere may be stored over."""
        wanted = {key: n for key, n in self.arguments.items() if not self.may_change(key)}
        results = {key: n for key, n in meaning.results.items() if kinds is None or key.partition(":")[0] in kinds}
        wanted.update(results)
        errors: list[Diagnostic] = []
        for key, numbers in wanted.items():
            if key not in self.plan.values:
                errors.append(Diagnostic(f"the plan has no place for {key}"))
                continue
            for segment in self.plan.values[key]:
                found, wrong = self.load(segment.window)
                if wrong is None and not np.array_equal(found, _part(numbers, segment)):
                    wrong = f"holds {self.describe(segment.window, found, meaning)}"
                if wrong:
                    errors.append(Diagnostic(f"{when} {key} in {_where(segment.window)}: {wrong}"))
        return errors


def _part(numbers: Numbers, segment: Segment) -> Numbers:
    index = tuple(slice(s, s + n) for s, n in zip(segment.start, segment.window.shape, strict=True))
    return np.asarray(numbers[index], np.uint64)


def _value_shape(segments: Sequence[Segment]) -> tuple[int, ...]:
    ends = [tuple(s + n for s, n in zip(seg.start, seg.window.shape, strict=True)) for seg in segments]
    return tuple(max(axis) for axis in zip(*ends, strict=True))


def _index(at: Array) -> list[int]:
    return [int(i) for i in at]


def _where(window: Window) -> str:
    return f"{window.base}+{window.offset_bytes} {list(window.shape)} strides {list(window.strides)}"
