"""The plans of a net at all dims that it ran at: found, derived from those that are there, or compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from concatc.diagnostics import ConcatcError, Diagnostic, UsageError
from concatc.runtime.dims import other_parameters
from concatc.runtime.instance import Instance
from concatc.runtime.optimizers import OptimizerState
from concatc.runtime.pool import Pool
from concatc.runtime.source import PHASES, Dim, Phase, Source
from concatc.runtime.store import Store
from concatc.targets import Executable

# Plans for other batch sizes are kept, the ones used last; each holds its IR and code, memory is shared.
MAX_PLANS = 32
MOST_BASES = 4  # compilations at several dims that are asked whether others follow from them


class Plans:
    """What a net and its views at other dims run, on one store and one pool a phase, by so many threads."""

    def __init__(self, source: Source, threads: int) -> None:
        self.threads = threads
        self.memory = source.target.memory()
        self.bases = [source]  # what was compiled: the net as it was, and at other dims
        self.instances: dict[tuple[Phase, tuple[tuple[str, Dim], ...]], Instance] = {}
        self.pools: dict[Phase, Pool] = {phase: Pool(self.memory) for phase in PHASES}

    @cached_property
    def store(self) -> Store:
        """The parameters; their memory is taken when they are first asked for."""
        train = self.bases[0].phase("train")
        return Store(train.signature, train.interface, self.memory)

    def instance(self, phase: Phase, source: Source) -> Instance:
        """A phase at the dims of a source."""
        key = (phase, tuple(source.dims.items()))
        instance = self.instances.pop(key, None) or self._new(phase, source)
        self.instances[key] = instance  # the one used last stands last
        if len(self.instances) > MAX_PLANS:
            del self.instances[next(iter(self.instances))]
        return instance

    def code(self, phase: Phase, source: Source) -> Executable:
        """The code that ran last, with an update if so; else what would run, for which no memory is taken."""
        known = self.instances.get((phase, tuple(source.dims.items())))
        return known.build(None) if known is not None else source.executable(phase, None)

    def _new(self, phase: Phase, source: Source) -> Instance:
        return Instance(source, phase, self.store, self.pools[phase], self.threads)

    def at(self, source: Source, dims: Mapping[str, Dim], changed: Mapping[str, Dim], phase: Phase, why: str) -> Source:
        """The net at other dims: on code that is there, or compiled.  Raises UsageError where it is another net."""
        key = tuple(dims.items())
        known = [i.source for (_, at), i in self.instances.items() if at == key]
        if known:
            return known[0]
        try:
            rescaled = next((at for base in self.bases if (at := base.at(dims, phase)) is not None), None)
            found = rescaled or source.with_dims(dims)
            params = found.phase(phase if rescaled else "train").signature.params
        except ConcatcError as error:
            # A net that is wrong at these dims has lines to show; what else hinders speaks for itself.
            hindered = isinstance(error, UsageError) and all(found.loc is None for found in error.diagnostics)
            first = Diagnostic(f"{why}, {'which is refused' if hindered else 'and the net does not compile with that'}")
            raise UsageError([first, *error.diagnostics], error.sources) from None
        problems = list(other_parameters(self.store.signature.params, params, phase, changed, why))
        if problems:
            raise UsageError(problems)
        if rescaled is None:
            # Other batch sizes may follow from it where they do not from the others; the first stays.
            self.bases = [self.bases[0], *self.bases[1:][-MOST_BASES + 2 :], found]
        return found

    def make_ready(self, there: Source, here: Source, updates: Iterable[OptimizerState]) -> None:
        """Prepare other dims to run what was run at these, where that follows from the code that is there."""
        if there in self.bases:
            return  # compiled at its first step, as any net is
        known = {state.key: state for state in updates}
        for instance in [i for i in self.instances.values() if i.source is here]:
            if there.at(there.dims, instance.phase) is None:
                continue
            other = self.instance(instance.phase, there)
            for key in instance.built:
                if key is None or key in known:
                    other.build(known[key] if key is not None else None)
