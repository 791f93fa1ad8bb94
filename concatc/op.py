"""The contract of an op: one class, one file in ``concatc/ops``.

A subclass of :class:`Op` *is* a registered op.  Its dataclass fields are its attributes in the IR, and it says

- ``infer``      types of the results from types of the operands; raises :class:`ShapeError`
- ``reference``  values of the results, in NumPy
- ``vjp``        cotangents of the operands from cotangents of the results, built of ops
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
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from concatc.diagnostics import Loc
from concatc.ir.core import Attr, Block, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.independence import AxisMap, independent_axes
from concatc.loops.pieces import Piece

DIALECT = "cnet."


class ShapeError(Exception):
    """Operands or attributes do not fit.  ``help`` says what would; ``notes`` are further facts.

    In the message ``{0}``, ``{1}`` .. stand for the operands; the front end puts the blobs' names there.
    """

    def __init__(self, message: str, help: str | None = None, notes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Init:
    """How a parameter or state starts: ``constant(value)``, ``gaussian(mean, std)``, ``uniform(low, high)``,
    ``xavier()`` (uniform, variance 1/fan_in: Glorot & Bengio 2010, Caffe's form) or ``msra()`` (gaussian, variance
    2/fan_in: He et al. 2015)."""

    kind: Literal["constant", "gaussian", "uniform", "xavier", "msra"]
    arguments: tuple[float, ...] = ()

    def to_attr(self) -> Attr:
        """As an IR attribute, ``"gaussian(0.0, 0.02)"``."""
        return f"{self.kind}({', '.join(repr(float(a)) for a in self.arguments)})"


_INIT = re.compile(r"(\w+)\(([^()]*)\)\s*")
_INIT_ARGUMENTS = {"constant": 1, "gaussian": 2, "uniform": 2, "xavier": 0, "msra": 0}


def parse_init(text: str) -> Init:
    """The inverse of :meth:`Init.to_attr`.  Raises ValueError that says what is wrong."""
    call = _INIT.fullmatch(text)
    if call is None or call[1] not in _INIT_ARGUMENTS:
        raise ValueError(f"`{text}` is no way to start a parameter")
    words = [word for word in call[2].split(",") if word.strip()]
    try:
        arguments = tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(f"`{text}` needs numbers, such as `gaussian(0.0, 0.02)`") from None
    if len(arguments) != _INIT_ARGUMENTS[call[1]]:
        raise ValueError(f"`{text}`: {call[1]} takes {_INIT_ARGUMENTS[call[1]]} numbers, not {len(arguments)}")
    if not all(map(math.isfinite, arguments)):
        raise ValueError(f"`{text}` needs finite numbers")
    if call[1] == "gaussian" and arguments[1] < 0:
        raise ValueError(f"`{text}`: the deviation is negative")
    return Init(typing.cast(Any, call[1]), arguments)


def constant(value: float) -> Init:
    """All elements ``value``."""
    return Init("constant", (value,))


XAVIER = Init("xavier")
MSRA = Init("msra")


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


@dataclass(frozen=True)
class Attribute:
    """An attribute as the language sees it; ``default`` is ``inspect.Parameter.empty`` where it must be given."""

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Signature:
    """A call in the language: data operands, then at most one positional attribute (``size``), the rest by keyword."""

    data: tuple[str, ...]  # "*xs" stands for one or more
    optional_data: int  # how many of the last data operands may be left out
    size: str | None
    attributes: Mapping[str, Attribute]


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Op:
    """Base of all ops.  See the module's docstring."""

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
    # An op with an effect is never duplicated, merged, moved across phases or removed.
    effect: ClassVar[bool] = False

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)
        if abstract:
            return
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower().rstrip("_")
        assert cls.name not in REGISTRY, f"two ops are called {cls.name}"
        REGISTRY[cls.name] = cls

    # -- the rules -------------------------------------------------------------------------------------------------
    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        """Types of the results; raises :class:`ShapeError`."""
        raise NotImplementedError(f"{self.name} has no rule infer")

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        """Values of the results, computed in the dtype of the operands (float64 on request).

        NaN and infinities are ordinary values: callers run it under ``np.errstate(all="ignore")``.
        """
        raise NotImplementedError(f"{self.name} has no rule reference")

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        """Cotangents of the operands, None where there is none or ``needs`` does not ask for it.

        ``dys[k]`` is None where result ``k`` has no cotangent; at least one is there.
        """
        raise NotImplementedError(f"{self.name} has no rule vjp")

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        """Pieces that write every element of every result."""
        raise NotImplementedError(f"{self.name} has no rule lower")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        """Cases for the op-agnostic tests, away from kinks and ties."""
        raise NotImplementedError(f"{cls.name} has no samples")

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

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        """A composite is tested through the ops that it is made of and by nets that call it."""
        return iter(())


_ATTRIBUTES: dict[type[Op], dict[str, Attribute]] = {}


def check_attribute(op: str, attribute: Attribute, value: Any) -> Any:
    """Return ``value`` as the attribute's type, or raise :class:`ShapeError`.

    An int is taken for a float, an int for a pair (``kernel=3`` is ``(3, 3)``), a list for a tuple.
    """
    try:
        return _coerce(attribute.type, value)
    except TypeError:
        expected = describe_type(attribute.type)
        raise ShapeError(f"{op}: `{attribute.name}` must be {expected}, not {value!r}") from None


def _coerce(type_: Any, value: Any) -> Any:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _coerce(option, value)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in args and isinstance(value, str):
            return value
        raise TypeError
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            if not isinstance(value, list | tuple):
                raise TypeError
            return tuple(_coerce(args[0], v) for v in value)
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,) * len(args)
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise TypeError
        return tuple(_coerce(a, v) for a, v in zip(args, value, strict=True))
    if type_ is None or type_ is type(None):
        if value is None:
            return None
        raise TypeError
    if type_ is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type_ is int and isinstance(value, bool):
        raise TypeError
    if isinstance(type_, type) and isinstance(value, type_):
        return value
    raise TypeError


def describe_type(type_: Any) -> str:
    """An attribute's type in words."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is Literal:
        return "one of " + ", ".join(f'"{a}"' for a in args)
    if origin is tuple:
        one = describe_type(args[0])
        many = one.removeprefix("an ").removeprefix("a ") + "s"
        return f"a list of {many}" if args[-1] is Ellipsis else f"{one} or a list of {len(args)}"
    if origin is not None:
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(type_, str(type_))


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

    No pass asks for it; tests hold every op's pieces to it, and it is there for passes that move ops through concats.
    """

    def lower(types: Sequence[TensorType]) -> tuple[list[Piece], list[TensorType]] | None:
        try:
            results = op.infer(types)
        except ShapeError:
            return None
        operands = [Ref("operand", k, t) for k, t in enumerate(types)]
        return list(op.lower(operands, [Ref("result", k, t) for k, t in enumerate(results)])), results

    return tuple(independent_axes(lower, xs))
