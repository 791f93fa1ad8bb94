"""The graph of a net at other batch sizes: the same ops, every number in them as a polynomial in the dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from concatc.loops.polynomials import NotScalableError, Polynomials, polynomials

if TYPE_CHECKING:
    from concatc.ir.core import Module
    from concatc.ir.numbers import Numbered

Sizes = Mapping[str, int]
OTHER_SIZES = "sizes that do not follow from the dims"


class ScaledGraph:
    """A graph at any sizes of the dims ``here``; ``made`` gives the graph, when somebody first asks for it."""

    def __init__(self, here: Sizes, numbers: Polynomials, made: Callable[[], Module]) -> None:
        self.here = here
        self.numbers = numbers
        self._made = made

    @staticmethod
    def of(here: Sizes, graph: Module, samples: Sequence[tuple[Sizes, Numbered]]) -> ScaledGraph:
        """Raises :class:`NotScalableError` where the samples are other graphs."""
        from concatc.ir.numbers import Numbered

        mine = Numbered.of(graph.functions)
        if any(sample.rest != mine.rest for _, sample in samples):
            raise NotScalableError(
                "another graph at other sizes, or other numbers in it: an attribute that is no integer and made of dims"
            )
        numbers = polynomials(here, [(dims, sample.numbers) for dims, sample in samples], mine.numbers)
        made = ScaledGraph(here, numbers, lambda: graph)
        if not made.is_of(graph):
            raise NotScalableError(OTHER_SIZES)
        return made

    @cached_property
    def graph(self) -> Module:
        """The graph here."""
        return self._made()

    @cached_property
    def _is_at_home(self) -> bool:
        return self.is_of(self.graph)

    def is_of(self, graph: Module) -> bool:
        """Whether the numbers here are those of that graph."""
        from concatc.ir.numbers import numbers_of

        return self.numbers.at(list(self.here.values())).tolist() == numbers_of(graph.functions)[0]

    def at(self, sizes: Sequence[int]) -> Module:
        """The graph, as it is where an op takes these sizes.

        Raises :class:`ConcatcError` where one does not, and :class:`NotScalableError` where numbers are of another
        graph.
        """
        from concatc.ir.core import Module
        from concatc.ir.numbers import with_numbers
        from concatc.passes.verify import verify

        if not self._is_at_home:
            raise NotScalableError(OTHER_SIZES)
        functions = with_numbers(self.graph.functions, self.numbers.at(sizes).tolist())
        module = Module(self.graph.sym_name, functions, self.graph.attributes)
        verify(module)
        return module
