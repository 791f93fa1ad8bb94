"""How a net is compiled: all that a caller may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean

if TYPE_CHECKING:
    from concatc.runtime.source import Dim

Recompute = Literal["none", "auto", "max"]
Precision = Literal["exact", "high", "fast"]
TARGETS = ("cpu", "cuda", "reference")
PRECISIONS = ("exact", "high", "fast")
DTYPES = ("f32", "f64")
_TARGETS_ELSEWHERE = {"gpu": "cuda", "nvidia": "cuda", "ptx": "cuda", "native": "cpu", "numpy": "reference"}
RECOMPUTE = ("none", "auto", "max")


@dataclass(frozen=True)
class Options:
    """How a net is compiled.

    ``dims`` overrides dims of the net; ``net`` chooses one where the file holds several; ``keep`` names blobs whose
    value and gradient the user reads; ``output_grads`` names outputs whose gradient the caller gives (True: all float
    ones); ``freeze`` names parameters, or paths above them, that are not trained.
    ``recompute`` is what the backward pass may compute again rather than keep.
    ``precision`` says by which algorithms convolutions may be computed (`choose_algorithms`): what sums the products as
    written (``exact``), what keeps its error (``high``), or what is off by some ten times as much (``fast``).  On
    ``cuda`` it chooses how products are computed: in f32, by three products of tf32, by one (docs/TARGET_CUDA.md).
    ``max_memory`` is a budget in bytes for the plan of each phase, parameters, gradients and what an optimizer holds
    included; it is met by more recomputation and other orders (`fit_budget`), or it is an error.
    ``verify_each`` checks the IR after every pass, and the plan; ``verify_plan`` checks every plan, tries a small one
    (`plan_trial.py`) and says so in ``Compilation.checked``; ``print_after`` names passes after which the IR is
    written to stderr, ``print_after_all`` writes what each pass changed.
    """

    target: str = "cpu"
    dims: Mapping[str, Dim] = field(default_factory=dict)
    net: str | None = None
    keep: tuple[str, ...] = ()
    input_grads: bool = False
    output_grads: bool | tuple[str, ...] = False
    freeze: tuple[str, ...] = ()
    dtype: str = "f32"
    recompute: Recompute = "auto"
    precision: Precision = "high"
    max_memory: int | None = None
    verify_each: bool = False
    verify_plan: bool = False
    print_after: tuple[str, ...] = ()
    print_after_all: bool = False

    def __post_init__(self) -> None:
        choices = (
            ("target", self.target, TARGETS),
            ("dtype", self.dtype, DTYPES),
            ("recompute mode", self.recompute, RECOMPUTE),
            ("precision", self.precision, PRECISIONS),
        )
        for what, value, known in choices:
            if value not in known:
                names = ", ".join(f"`{name}`" for name in known)
                shown = getattr(value, "__name__", value)  # np.float32 is a class
                raise UsageError(Diagnostic(f"no {what} `{shown}`; there are {names}", help=_meant(str(shown), known)))


def _meant(value: str, known: tuple[str, ...]) -> str | None:
    """What may be meant by a value that is none of the known ones."""
    if known is DTYPES:
        from concatc.frontend.cnet.habits import type_help

        return type_help(value, known)
    elsewhere = _TARGETS_ELSEWHERE.get(value.lower())
    return f"did you mean `{elsewhere}`?" if elsewhere in known else did_you_mean(value, known)
