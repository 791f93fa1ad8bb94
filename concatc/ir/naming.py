"""Names of values in text: unique among all that are visible, the same for the same IR."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from concatc.ir.core import Block, Operation, Value

_GOOD = re.compile(r"(?:[A-Za-z_$.-][\w$.-]*|\d+)\Z", re.ASCII)
_BAD_CHARACTER = re.compile(r"[^\w$.-]", re.ASCII)


class Names:
    """``of[value]`` is ``%h``, ``%h.1`` where ``%h`` is taken, ``%0`` where the value has no name.

    Names of one region may not be those of the regions around it, wherever they stand there; regions beside each
    other may use the same names.
    """

    def __init__(self) -> None:
        self.of: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._suffix: dict[str, int] = {}
        self._numbers: set[str] = set()  # names that are numbers, in use anywhere
        self._next_number = 0

    def add_function(self, function: Operation) -> None:
        """Name all values inside a function."""
        for region in function.regions:
            self.add_block_list(region.blocks)

    def add_block_list(self, blocks: Sequence[Block]) -> None:
        """Name all values of the blocks and of the regions in them, except inside functions."""
        self._numbers |= {v.name for v in _values(blocks) if v.name.isdigit()}
        self._add(blocks)

    def _add(self, blocks: Sequence[Block]) -> list[str]:
        added = [self._claim(value) for block in blocks for value in _own_values(block)]
        for block in blocks:
            for op in block.ops:
                if op.name == "func.func":
                    continue
                for region in op.regions:
                    for name in self._add(region.blocks):
                        self._release(name)
        return added

    def _claim(self, value: Value) -> str:
        name = value.name
        if not _GOOD.match(name):
            name = _BAD_CHARACTER.sub("_", name)
            if name[:1].isdigit():
                name = "_" + name
        if not name or (name in self._taken and name.isdigit()):
            name = self._number()
        elif name in self._taken:
            base, k = name, self._suffix.get(name, 0) + 1
            while f"{base}.{k}" in self._taken:
                k += 1
            self._suffix[base] = k
            name = f"{base}.{k}"
        self._taken.add(name)
        self.of[value] = "%" + name
        return name

    def _number(self) -> str:
        while str(self._next_number) in self._numbers:
            self._next_number += 1
        self._next_number += 1
        return str(self._next_number - 1)

    def _release(self, name: str) -> None:
        self._taken.discard(name)
        self._suffix.pop(name, None)
        base, _, k = name.rpartition(".")
        if base in self._suffix and k.isdigit():
            self._suffix[base] = min(self._suffix[base], int(k) - 1)


def _own_values(block: Block) -> Iterator[Value]:
    yield from block.args
    for op in block.ops:
        yield from op.results


def _values(blocks: Sequence[Block]) -> Iterator[Value]:
    for block in blocks:
        yield from _own_values(block)
        for op in block.ops:
            for region in op.regions:
                if op.name != "func.func":
                    yield from _values(region.blocks)
