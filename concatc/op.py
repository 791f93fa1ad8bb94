"""The contract of an op: one class, one file in ``concatc/ops``.

A subclass of :class:`Op` *is* a registered op.  Its dataclass fields are its attributes in the IR, and it says

- ``infer``      types of the results from types of the operands; raises :class:`ShapeError`
- ``reference``  values of the results, in NumPy
- ``vjp``        cotangents of the operands from cotangents of the results, built of ops (not needed where ``internal``)
- ``lower``      pieces: loop nests over scalar expressions
- ``samples``    operand types (or data) to test it with
- ``build``      what a call of that name in the language means (optional: by default the op itself)

The docstring is its page in the generated reference.  A :class:`Composite` has ``build`` only: a function of the
language that is made of other ops.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import typing
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from concatc.diagnostics import Loc
from concatc.initial_values import Init
from concatc.ir.core import Attr, Block, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.independence import AxisMap, independent_axes
from concatc.loops.pieces import Piece
from concatc.op_attributes import Attribute, Signature, check_attribute
from concatc.op_attributes import ShapeError as ShapeError  # a word of the contract: rules raise it

DIALECT = "cnet."


class CallSite(Protocol):
    """What ``build`` may ask of the place in the source where the op is called."""

    b: Builder
    train: bool

    def param(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32", fan_in: int = 0) -> Value:
        """The parameter ``name`` of this call: new, tied by ``name=blob``, with the user's init, lr and decay.

        ``fan_in=0`` means ``prod(shape[1:])``.  Call it only where :meth:`has_param` is true.
        """
        ...

    def has_param(self, name: str) -> bool:
        """False where the call says ``name=false``."""
        ...

    def state(self, name: str, shape: Sequence[int], init: Init, dtype: str = "f32") -> Value:
        """A state of this call (running statistics)."""
        ...

    def update(self, state: Value, value: Value) -> None:
        """Let ``state`` be ``value`` after the step (training phase only)."""
        ...

    def random(self) -> tuple[Value, int]:
        """The run's random state (``tensor<2xi32>``: seed, step) and a key that is unique to this call."""
        ...


REGISTRY: dict[str, type[Op]] = {}


@dataclass(frozen=True)
class Sample:
    """Operand types, and, where random normal data would not do, a maker of data.

    ``data(rng)`` returns the operands as float64 or integer arrays.  ``differentiable`` says for which operands
    gradients are checked (default: the float ones).
    """

    op: Op
    types: tuple[TensorType, ...]
    data: Callable[[np.random.Generator], list[np.ndarray]] | None = None
    differentiable: tuple[bool, ...] | None = None

    def operands(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Operands of this sample: floats as float64, integers as their own type."""
        if self.data is not None:
            return self.data(rng)
        return [rng.normal(size=t.shape) for t in self.types]


def f32(*shape: int) -> TensorType:
    """``tensor<..xf32>``."""
    return TensorType(shape, "f32")


def i32(*shape: int) -> TensorType:
    """``tensor<..xi32>``."""
    return TensorType(shape, "i32")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Op:
    """Base of all ops.  See the module's docstring.

    A class that lacks a rule is a TypeError where it is defined: all that is abstract here or in what stands between,
    and the gradient of what the language can call.  With ``abstract=True`` it is no op, but what several ops share.
    """

    name: ClassVar[str]
    # Data operands in the language and in docs; "*xs" takes one or more; "bias?" may be absent.
    operands: ClassVar[tuple[str, ...]] = ("x",)
    # The attribute that may be given by position.
    size: ClassVar[str | None] = None
    # A statement of the language that calls it, for its page; tests compile it.
    example: ClassVar[str] = ""
    # Parameters that a call owns: P=, P_init=, P_lr=, P_decay= are accepted for each.
    params: ClassVar[tuple[str, ...]] = ()
    # Not callable from the language (gradients of other ops, split, accumulate).
    internal: ClassVar[bool] = False
    # Rules that all ops of a kind go without.
    without: ClassVar[tuple[str, ...]] = ()
    # An op with an effect is never duplicated, merged, moved across phases or removed.
    effect: ClassVar[bool] = False

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)
        if abstract:
            return
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower().rstrip("_")
        assert cls.name not in REGISTRY, f"two ops are called {cls.name}"
        if lacking := _lacking(cls):
            raise TypeError(f"op {cls.name} lacks {', '.join(lacking)}: each op has rules of its own (concatc/op.py)")
        REGISTRY[cls.name] = cls

    # -- the rules -------------------------------------------------------------------------------------------------
    @abstractmethod
    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        """Types of the results; raises :class:`ShapeError`."""

    @abstractmethod
    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        """Values of the results, computed in the dtype of the operands (float64 on request).

        NaN and infinities are ordinary values: callers run it under ``np.errstate(all="ignore")``.
        """

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        """Cotangents of the operands, None where there is none or ``needs`` does not ask for it.

        ``dys[k]`` is None where result ``k`` has no cotangent; at least one is there.  Ops that the language cannot
        call, such as gradients, may go without.
        """
        raise ShapeError(f"{self.name} has no gradient, and a loss depends on it")

    @abstractmethod
    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        """Pieces that write every element of every result."""

    @classmethod
    @abstractmethod
    def samples(cls) -> Iterator[Sample]:
        """Cases for the op-agnostic tests, away from kinks and ties."""

    @classmethod
    def doubt(cls, xs: Sequence[Value]) -> tuple[str, str] | None:
        """For a call on ``xs`` that is correct but hardly meant: a warning (``{0}`` as in ShapeError) and its help."""
        return None

    @classmethod
    def build(cls, site: CallSite, *xs: Any, **attributes: Any) -> Any:
        """What a call in the language makes: a value, or a tuple of values.  Default: the op itself."""
        results = site.b.emit(cls(**attributes), xs)
        return results[0] if len(results) == 1 else tuple(results)

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        """Integer operands that index something: ``{operand: (n, ignored)}``, valid are 0..n-1 and ``ignored``."""
        return {}

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        """For a scalar that is a sum over the rows (axis 0) of all operands: what that sum is multiplied by.

        ``op(rows joined) / row_factor = sum of op(part) / row_factor of the part``.  None where it is no such sum.
        """
        return None

    # -- derived ---------------------------------------------------------------------------------------------------
    @classmethod
    def attribute_fields(cls) -> Mapping[str, Attribute]:
        """The attributes in the IR: the dataclass fields.  Not to be written to: it is made once."""
        if cls not in _ATTRIBUTES:
            hints = typing.get_type_hints(cls)
            _ATTRIBUTES[cls] = {
                f.name: Attribute(
                    f.name,
                    hints[f.name],
                    inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
                )
                for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            }
        return _ATTRIBUTES[cls]

    def attrs(self) -> dict[str, Attr]:
        """The attributes, in order of declaration, as the IR holds them."""
        return {name: getattr(self, name) for name in self.attribute_fields()}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Attr]) -> Op:
        """The op with these attributes; unknown ones (``transposes`` and the like) are left out.

        Raises :class:`ShapeError` where one is missing or of a wrong type.
        """
        values: dict[str, Any] = {}
        for name, attribute in cls.attribute_fields().items():
            if name in attrs:
                values[name] = check_attribute(cls.name, attribute, attrs[name])
            elif attribute.required:
                raise ShapeError(f"{cls.name} needs the attribute `{name}`")
        return cls(**values)

    @classmethod
    def signature(cls) -> Signature:
        """How the language calls it: read off ``build`` where it is overridden, else the operands and fields."""
        optional = sum(name.endswith("?") for name in cls.operands)
        data = tuple(name.rstrip("?") for name in cls.operands)
        if cls.build.__func__ is Op.build.__func__:  # type: ignore[attr-defined]
            return Signature(data, optional, cls.size, cls.attribute_fields())
        hints = typing.get_type_hints(cls.build)
        attributes = {
            p.name: Attribute(p.name, hints[p.name], p.default)
            for p in inspect.signature(cls.build).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        return Signature(data, optional, cls.size, attributes)


class Composite(Op, abstract=True):
    """A function of the language made of other ops: only ``build`` and a docstring."""

    without = ("infer", "reference", "vjp", "lower")

    @classmethod
    @abstractmethod
    def build(cls, site: CallSite, *xs: Any, **attributes: Any) -> Any:
        """What a call makes: a value, or a tuple of values."""

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        """A composite is tested through the ops that it is made of and by nets that call it."""
        return iter(())


_ATTRIBUTES: dict[type[Op], dict[str, Attribute]] = {}


def _lacking(cls: type[Op]) -> list[str]:
    """The rules that an op must have and has not."""
    abstract = [name for name in dir(cls) if getattr(getattr(cls, name), "__isabstractmethod__", False)]
    if cls.vjp is Op.vjp and not cls.internal:
        abstract.append("vjp")
    return [name for name in abstract if name not in cls.without]


def load_all_ops() -> dict[str, type[Op]]:
    """Import every file of ``concatc/ops`` and return the registry, by name."""
    package = importlib.import_module("concatc.ops")
    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"concatc.ops.{info.name}")
    return dict(sorted(REGISTRY.items()))


def op_of(operation: Operation) -> Op:
    """The typed op of an operation ``cnet.NAME``.  Raises KeyError for an unknown name."""
    name = operation.name.removeprefix(DIALECT)
    if name not in REGISTRY:  # a written module is read by a process that has imported no op yet
        load_all_ops_once()
    return REGISTRY[name].from_attrs(operation.attributes)


def is_op(operation: Operation, *names: str) -> bool:
    """Whether the operation is one of the named ops of concatc."""
    return operation.name.startswith(DIALECT) and operation.name[len(DIALECT) :] in names


@dataclass
class Builder:
    """Appends operations to a block (or before ``anchor``).

    ``b.concat(x, y, axis=1)`` emits the op of that name and returns its value (a list where it has several).
    """

    block: Block
    loc: Loc | None = None
    anchor: Operation | None = None
    attributes: dict[str, Attr] = field(default_factory=dict)  # added to every operation

    def emit(self, op: Op, operands: Sequence[Value], names: Sequence[str] | None = None) -> list[Value]:
        """Append one op; raises :class:`ShapeError`."""
        types = op.infer([x.tensor for x in operands])
        made = Operation(
            DIALECT + op.name, operands, types, {**op.attrs(), **self.attributes}, loc=self.loc, result_names=names
        )
        if self.anchor is None:
            self.block.append(made)
        else:
            self.block.insert_before(self.anchor, made)
        return made.results

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name.rstrip("_") not in load_all_ops_once():
            raise AttributeError(name)
        cls = REGISTRY[name.rstrip("_")]

        def call(*operands: Value, names: Sequence[str] | None = None, **attributes: Any) -> Any:
            results = self.emit(cls(**attributes), operands, names)
            return results[0] if len(results) == 1 else results

        return call


@functools.cache
def load_all_ops_once() -> dict[str, type[Op]]:
    """:func:`load_all_ops`, once per process."""
    return load_all_ops()


def lowered(operation: Operation) -> list[Piece]:
    """The pieces of an operation, with operands and results as :class:`Ref`."""
    xs = [Ref("operand", k, v.tensor) for k, v in enumerate(operation.operands)]
    ys = [Ref("result", k, v.tensor) for k, v in enumerate(operation.results)]
    return list(op_of(operation).lower(xs, ys))


@functools.lru_cache(maxsize=4096)
def axis_maps(op: Op, xs: tuple[TensorType, ...]) -> tuple[AxisMap, ...]:
    """The axes that an op maps independently: ``op(concat(a, b)) = concat(op(a), op(b))`` along each of them.

    Passes that join rows ask for it, and `batch_sizes/row_by_row.py`; tests hold every op's pieces to it.
    """

    def lower(types: Sequence[TensorType]) -> tuple[list[Piece], list[TensorType]] | None:
        try:
            results = op.infer(types)
        except ShapeError:
            return None
        operands = [Ref("operand", k, t) for k, t in enumerate(types)]
        return list(op.lower(operands, [Ref("result", k, t) for k, t in enumerate(results)])), results

    return tuple(independent_axes(lower, xs))
