"""The mappings that a compiled module shows: parameters, gradients, states, kept blobs, weights of losses."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.loops.memory import Array
from concatc.runtime.inputs import MASKED


class UnknownNameError(UsageError, KeyError):
    """A name that the net does not have."""


class Tensors(Mapping[str, Array]):
    """Arrays by name, each a view of memory that the net works on: ``net.params["fc.weight"][...] = w``.

    ``net.params["fc.weight"] = w`` copies ``w`` into that memory as well.  ``absent`` says of names that could be
    there why they are not.
    """

    def __init__(
        self,
        what: str,
        views: Mapping[str, Array],
        changed: Callable[[], None] | None = None,
        given: Callable[[str, str], None] | None = None,
        absent: Mapping[str, Diagnostic] | None = None,
    ) -> None:
        self._what = what
        self._views = views
        self._changed = changed
        self._given = given
        self._absent = absent or {}

    def __getitem__(self, name: str) -> Array:
        view = self._find(name)
        if self._given is not None:
            self._given(f"{self._what} `{name}`", name)
        return view

    def __setitem__(self, name: str, value: Any) -> None:
        view = self._find(name)
        if isinstance(value, np.ma.MaskedArray):
            raise UsageError(f"{self._what} `{name}`: {MASKED}")
        array = np.asarray(value)
        if array.shape != view.shape:
            raise UsageError(f"{self._what} `{name}` has shape {list(view.shape)}, not {list(array.shape)}")
        view[...] = array
        if self._changed is not None:
            self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {v.dtype}{list(v.shape)}" for name, v in self._views.items())

    def _find(self, name: str) -> Array:
        if name in self._absent:
            raise UnknownNameError(self._absent[name])
        if name not in self._views:
            names = ", ".join(f"`{n}`" for n in list(self._views)[:12]) or "none"
            hint = did_you_mean(str(name), self._views) or f"there are {names}"
            raise UnknownNameError(Diagnostic(f"the net has no {self._what} `{name}`", help=hint))
        return self._views[name]


@dataclass(frozen=True)
class Blob:
    """A kept blob: live views of its value, and of its gradient where there is one."""

    data: Array
    grad: Array | None


class Blobs(Mapping[str, Blob]):
    """The kept blobs by name, as the last forward (and backward) pass left them."""

    def __init__(
        self, find: Callable[[str], Blob], names: tuple[str, ...], in_net: Callable[[], Sequence[str]]
    ) -> None:
        self._find = find
        self._names = names
        self._in_net = in_net

    def __getitem__(self, name: str) -> Blob:
        if name not in self._names:
            known = self._in_net()
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise UnknownNameError(Diagnostic(f"the net has no blob `{name}`", help=hint))
            keep = [*self._names, name]
            raise UnknownNameError(
                Diagnostic(f"the bytes of `{name}` are reused within a step", help=f"compile with keep={keep!r}")
            )
        return self._find(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LossWeights(MutableMapping[str, float]):
    """The weight of each loss in the total, a run-time number: ``net.loss_weights["aux1"] = 0.1``.

    What is not set is what the source says; it is shown for the dims that the net was compiled with.
    """

    def __init__(
        self, weights: Mapping[str, float], lock: AbstractContextManager[Any], changed: Callable[[], None]
    ) -> None:
        self._weights = dict(weights)
        self._set: dict[str, float] = {}
        self._lock = lock  # of steps: one that runs in another thread ends with the weights that it began with
        self._changed = changed

    def at(self, weights: Mapping[str, float]) -> list[float]:
        """The weights at other dims, where the source gives ``weights``: what was set stays."""
        return [self._set.get(name, weight) for name, weight in weights.items()]

    def __getitem__(self, name: str) -> float:
        self._check(name)
        return self._set.get(name, self._weights[name])

    def __setitem__(self, name: str, weight: float) -> None:
        self._check(name)
        if not _is_finite_number(weight):
            raise UsageError(f"the weight of the loss `{name}` must be a finite number, not {weight!r}")
        with self._lock:
            self._set[name] = float(weight)
            self._changed()

    def __delitem__(self, name: str) -> None:
        raise UsageError(f"the net has the loss `{name}`; give it the weight 0 to leave it out")

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _check(self, name: str) -> None:
        if name not in self._weights:
            names = ", ".join(f"`{n}`" for n in self._weights) or "none"
            hint = did_you_mean(str(name), self._weights) or f"there are {names}"
            raise UnknownNameError(Diagnostic(f"the net has no loss `{name}`", help=hint))


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Real) and math.isfinite(value)
