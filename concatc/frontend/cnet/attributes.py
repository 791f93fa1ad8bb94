"""What a call says about the attributes and parameters of an op: known names, values of the right kind."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

from concatc.diagnostics import Loc, did_you_mean
from concatc.frontend.cnet import ast, habits
from concatc.frontend.cnet.context import Frame, Run
from concatc.frontend.cnet.expressions import is_number
from concatc.frontend.cnet.values import NumberError, as_float, describe, is_blob, plain, show
from concatc.initial_values import Init, constant
from concatc.op import Op, ShapeError
from concatc.op_attributes import Attribute, Signature, check_attribute, describe_type


@dataclass(frozen=True)
class Attributes:
    """Checks attributes; what is wrong with them is reported."""

    run: Run

    def is_known(self, frame: Frame, op: type[Op], signature: Signature, keyword: ast.Keyword) -> bool:
        """Whether a call of the op may give this keyword."""
        name = keyword.name
        known = [*signature.attributes, *(p + s for p in op.params for s in ("", "_init", "_lr", "_decay"))]
        if name in known:
            return True
        data = [d.lstrip("*") for d in signature.data]
        if name in data:
            self.run.report(
                frame,
                f"`{name}` is data and has no name in a call",
                keyword.loc,
                [f"call it as `{usage(op, signature)}`"],
            )
            return False
        listed = ", ".join(f"`{n}`" for n in [*signature.attributes, *op.params]) or "none"
        self.run.report(
            frame,
            f"`{op.name}` has no attribute `{name}`",
            keyword.loc,
            [f"it has {listed}"],
            habits.attribute_help(name, known),
        )
        return False

    def value(self, frame: Frame, op: type[Op], signature: Signature, name: str, value: Any, loc: Loc) -> Any:
        """The value of an attribute, or of what a call says about a parameter, in the form that the op takes."""
        if name not in signature.attributes:
            return self._parameter_option(frame, op, name, value, loc)
        attribute = signature.attributes[name]
        try:
            return check_attribute(op.name, attribute, plain(value))
        except NumberError as error:
            raise self.run.fail(frame, str(error), loc) from None
        except ShapeError:
            self._wrong_attribute(frame, op, attribute, value, loc)

    def _wrong_attribute(self, frame: Frame, op: type[Op], attribute: Attribute, value: Any, loc: Loc) -> NoReturn:
        expected = describe_type(attribute.type)
        help = None
        if is_number(value) and value.denominator != 1 and "integer" in expected:
            found, help = self.run.integer_problem(value, loc)
            raise self.run.fail(frame, f"{op.name}: `{attribute.name}` must be {expected}, but {found}", loc, help=help)
        if isinstance(value, str) and expected.startswith("one of"):
            help = did_you_mean(value, [part.strip('" ') for part in expected.removeprefix("one of").split(",")])
        if isinstance(value, tuple) or is_blob(value):
            found = show(value) if isinstance(value, tuple) else "a blob"
        else:
            found = describe(value)
        raise self.run.fail(frame, f"{op.name}: `{attribute.name}` must be {expected}, not {found}", loc, help=help)

    def _parameter_option(self, frame: Frame, op: type[Op], name: str, value: Any, loc: Loc) -> Any:
        if name in op.params:
            if isinstance(value, bool) or is_blob(value):
                return value
            expected = "a blob, true or false"
        elif name.endswith("_init"):
            if isinstance(value, Init):
                return value
            if is_number(value):
                return constant(self._float(frame, value, loc))
            expected = "an initial value such as `xavier()`"
        else:
            if is_number(value) and value >= 0:
                return self._float(frame, value, loc)
            expected = "a number that is not negative"
        raise self.run.fail(frame, f"{op.name}: `{name}` must be {expected}, not {describe(value)}", loc)

    def _float(self, frame: Frame, value: Fraction, loc: Loc) -> float:
        try:
            return as_float(value)
        except NumberError as error:
            raise self.run.fail(frame, str(error), loc) from None


def usage(op: type[Op], signature: Signature) -> str:
    """How the op is called, for notes: ``conv(x, channels, kernel=..)``."""
    data = [d.lstrip("*") if not d.startswith("*") else "a, b, .." for d in signature.data]
    if signature.optional_data:
        data[-signature.optional_data :] = [f"[{d}]" for d in data[-signature.optional_data :]]
    size = [signature.size] if signature.size is not None else []
    required = [f"{a.name}=.." for a in signature.attributes.values() if a.required and a.name != signature.size]
    return f"{op.name}({', '.join([*data, *size, *required])})"
