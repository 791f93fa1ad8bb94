"""Arranges the pieces of a kernel's ops in loop nests.

    softmax over rows                        nest r0 { fold top over c; fold total over c;
        top[r]   = max_c x[r, c]                       nest c { store y } }
        total[r] = sum_c exp(x[r, c] - top[r])
        y[r, c]  = exp(x[r, c] - top[r]) / total[r]

Three rules make the arrangement: a value that one pointwise piece makes is computed where it is read (it has no
memory); statements share loops over parallel axes as long as each reads what an earlier one wrote in the same
iteration only; what is not read at the point where it was computed lives in scratch memory, without the axes that
writer and readers share.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from concatc.loops.accesses import Accesses, Computed, Place, place_of
from concatc.loops.cut_axes import cut_loops
from concatc.loops.expected_channels import expect_channels
from concatc.loops.expr import Axis, Expr
from concatc.loops.program import Buffer, Nest, Program, Statement, statements_in
from concatc.loops.scratch import assign_scratch


@dataclass(eq=False)
class Arrangement:
    """A kernel's nests, the buffers behind its arguments and results, and those in scratch memory.

    ``overwritten`` are arguments in the memory of which a result lies; ``cut`` the loops that run over the chunk, by
    stretches of it.
    """

    root: Nest
    arguments: list[Buffer]
    results: list[Buffer]
    scratch: list[Buffer]
    overwritten: list[Buffer]
    cut: list[list[Nest]]


def arrange(program: Program, overwritten: Sequence[tuple[Buffer, Buffer]] = ()) -> Arrangement:
    """The nests of a program.

    ``overwritten`` are pairs of an argument and a result that lies in its memory; such a result is stored in the loop
    in which the argument is last read, or behind it.
    """
    statements = [s for s in program.statements if s.target.results or not s.target.inlined]
    reads = Accesses()
    for argument, result in overwritten:
        _delay(statements, argument, result, reads)
    root = Nest(None)
    placer = _Placer(root, reads, overwritten, program)
    for statement in statements:
        placer.place(statement)
    for argument, result in overwritten:
        _check_overwrite(statements, root, argument, result, reads)
    scratch = assign_scratch(statements, reads)
    cut = cut_loops(root, statements, reads)
    expect_channels(statements)
    return Arrangement(root, program.arguments, program.results, scratch, [x for x, _ in overwritten], cut)


# -- sharing loops -------------------------------------------------------------------------------------------------
class _Placer:
    """Puts statements into loops, one after the other."""

    def __init__(
        self, root: Nest, reads: Accesses, overwritten: Sequence[tuple[Buffer, Buffer]], program: Program
    ) -> None:
        self.root, self.reads, self.overwritten = root, reads, overwritten
        self.block, self.parts = program.block, program.parts
        self.outer: Nest | None = None
        self.around = root  # the loop over parts of the outer loop, if it has some
        self.inner: Nest | None = None

    def place(self, statement: Statement) -> None:
        """Append the statement to the loops that it may join, or to new ones."""
        statement.static += _window_axes(statement, self.reads)
        if statement.kind == "scatter":
            self.root.items.append(statement)
            return
        base = self.root if statement.outer is None else self._outer_loop(statement.outer)
        if statement.clears:
            self._clear(statement)
            return
        # Without blocks the outer loop is the first loop of the statement; else that runs over a block.
        path = [base] if base is not self.root and base.block == 1 else []
        if statement.inner is not None:
            base = self._inner_loop(base, statement.inner)
            path.append(base)
        if not statement.apart:
            path += self._shared_path(statement, base, len(path))
        node = path[-1] if path else base
        for axis in statement.piece.parallel[len(path) :]:
            inner = Nest(axis, within=base if node is base and base.block > 1 else None)
            node.items.append(inner)
            path.append(inner)
            node = inner
        for axis, nest in zip(statement.piece.parallel, path, strict=True):
            nest.static |= axis in statement.static
        statement.path = path
        node.items.append(statement)

    def _outer_loop(self, axis: Axis) -> Nest:
        if self.outer is None:
            if self.parts > 1:
                self.around = Nest(axis, parts=self.parts)
                self.root.items.append(self.around)
            self.outer = Nest(axis, block=self.block, within=self.around if self.parts > 1 else None)
            self.around.items.append(self.outer)
        return self.outer

    def _clear(self, statement: Statement) -> None:
        """Put a statement in loops of its own in front of the outer loop."""
        assert self.outer is not None
        items, place = self.around.items, self.around.items.index(self.outer)
        statement.path = [Nest(axis, axis in statement.static) for axis in statement.piece.parallel]
        inner: Nest | Statement = statement
        for nest in reversed(statement.path):
            nest.items.append(inner)
            inner = nest
        items.insert(place, inner)

    def _inner_loop(self, base: Nest, axis: Axis) -> Nest:
        """The loop inside of the outer one that statements share."""
        if self.inner is None:
            self.inner = Nest(axis)
            base.items.append(self.inner)
        return self.inner

    def _shared_path(self, statement: Statement, base: Nest, depth: int) -> list[Nest]:
        """All loops of the statement from ``depth`` on in the latest nest of ``base`` that has them, else some."""
        needed = {writer for buffer, _ in self.reads.of(statement) for writer in buffer.writers}
        partly: list[Nest] = []
        for item in reversed(base.items):
            path = self._path_into(statement, item, depth) if isinstance(item, Nest) else []
            if path and depth + len(path) == len(statement.piece.parallel):
                return path
            if item is base.items[-1]:
                partly = path
            if any(made in needed for made in statements_in(item)):
                break
        return partly

    def _path_into(self, statement: Statement, top: Nest, depth: int) -> list[Nest]:
        path: list[Nest] = []
        nest: Nest | Statement = top
        for level, axis in enumerate(statement.piece.parallel[depth:], depth):
            if not isinstance(nest, Nest) or nest.axis is None or nest.axis.extent != axis.extent or nest.block > 1:
                break
            if not all(self._same_iteration(w, r, at, level) for w, r, at in self._conflicts(statement, nest)):
                break
            path.append(nest)
            nest = nest.items[-1]
        return path

    def _conflicts(self, statement: Statement, nest: Nest) -> Iterator[tuple[Statement, Statement, tuple[Place, ...]]]:
        """Writers and readers of one memory, of which one is the statement and the other stands in the nest."""
        for buffer, at in self.reads.of(statement):
            for writer in buffer.writers:
                if nest in writer.path:
                    yield writer, statement, at
        for argument, result in self.overwritten:
            for other in statements_in(nest):
                for writer, reader in ((statement, other), (other, statement)):
                    if writer.target is result:
                        yield from ((writer, reader, at) for b, at in self.reads.of(reader) if b is argument)

    @staticmethod
    def _same_iteration(writer: Statement, reader: Statement, at: Sequence[Place], depth: int) -> bool:
        """Whether the reader's iterations read only what the writer's writes in the same one."""
        mine, theirs = reader.piece.parallel[depth], writer.piece.parallel[depth]
        return any(w == theirs and r == mine for w, r in zip(writer.piece.at, at, strict=True))


def _delay(statements: list[Statement], argument: Buffer, result: Buffer, reads: Accesses) -> None:
    """Store the result behind all other statements that read the argument, unless they read the result."""
    if len(result.writers) != 1 or result.writers[0] not in statements:
        return
    (writer,) = result.writers
    at = statements.index(writer)
    last = max(k for k, s in enumerate(statements) if s is writer or any(b is argument for b, _ in reads.of(s)))
    between = statements[at + 1 : last + 1]
    if not any(b is result for s in between for b, _ in reads.of(s)):
        statements[at : last + 1] = [*between, writer]


def _check_overwrite(
    statements: Sequence[Statement], root: Nest, argument: Buffer, result: Buffer, reads: Accesses
) -> None:
    """Never a silent alias: what reads the argument does so before it is overwritten, or at the same point."""
    order = {s: k for k, item in enumerate(root.items) for s in statements_in(item)}
    for writer, reader in itertools.product(result.writers, statements):
        for buffer, at in reads.of(reader):
            if buffer is not argument or order[reader] < order[writer]:
                continue
            places = _positions(at, reader)
            same_point = None not in places and places == _positions(writer.piece.at, writer)
            assert same_point and reader.path == writer.path and reader.kind == "store", (
                f"{argument.name} is overwritten by {result.name} before it is read for {reader.target.name}"
            )


def _positions(at: Sequence[Expr | Computed], statement: Statement) -> list[int | None]:
    """The loop that each index is, counted from outside; None for another index."""
    loops = statement.piece.parallel
    return [loops.index(i) if isinstance(i, Axis) and i in loops else None for i in at]


def _window_axes(statement: Statement, reads: Accesses) -> list[Axis]:
    """The axes that stand together with another one in an index: a position in a window, ``i * stride + k``."""
    places = [place for _, at in reads.of(statement) for place in at]
    places += [place_of(i) for i in statement.piece.at]
    found: dict[Axis, None] = {}
    for place in places:
        if isinstance(place, Computed) and len(place.axes) > 1 and not place.gathered:
            found.update(dict.fromkeys(place.axes))
    return list(found)
