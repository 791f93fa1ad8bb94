# ruff: noqa: E501  (a line of text beside its message)
"""Errors of reading IR: place and words; texts that would take much memory, time or stack."""

from __future__ import annotations

import random

import pytest

from concatc.diagnostics import ConcatcError
from concatc.ir.parser import parse_module
from tests.std_module import every_op


def inside(line: str) -> str:
    """A module whose function holds ``line``, as line 3 from column 5 on."""
    return f"module @m {{\n  func.func @f(%x: tensor<2x3xf32>, %f: f32, %n: index) {{\n    {line}\n    func.return\n  }}\n}}\n"


def message(text: str) -> str:
    with pytest.raises(ConcatcError) as error:
        parse_module(text, "d.mlir")
    first = error.value.diagnostics[0]
    return f"{first.loc}: {first.message}" + (f" [{first.help}]" if first.help else "")


LINES = {
    '%y = "cnet.relu"(%z) : (f32) -> f32': "3:22: %z is not defined here",
    '%y = "cnet.relu"(%xx) : (f32) -> f32': "3:22: %xx is not defined here [did you mean `%x`?]",
    '%y = "cnet.relu"(%x) : (f32) -> f32': "3:28: %x has type tensor<2x3xf32>, not f32",
    '%y = "cnet.relu"(%x) : () -> f32': "3:28: cnet.relu has 1 operands, but its type takes 0",
    '"cnet.relu"(%f) : (f32) -> f32': "3:5: cnet.relu has 1 results, but 0 names stand before `=`",
    '%x = "cnet.relu"(%f) : (f32) -> f32': "3:5: %x is defined twice; first in line 2",
    '%y "cnet.relu"(%f) : (f32) -> f32': '3:8: expected `=`, found `"cnet.relu"`',
    '%y = "relu"(%f) : (f32) -> f32': '3:10: an operation is named "dialect.name"',
    '%y = "cnet.relu"(%f) (f32) -> f32': "3:27: expected `{`, found `f32`",
    '%y = "cnet.relu"(%f : (f32) -> f32': "3:25: expected `,`, found `:`",
    '%y = "cnet.relu"(%f) : (f32) f32': "3:34: expected `->`, found `f32`",
    '%y = "cnet.relu"(%f) : (f33) -> f32': "3:29: expected a type, found `f33`",
    '"cnet.x"() {a = 1 : i64 b} : () -> ()': "3:29: expected `,`, found `b`",
    '"cnet.x"() {a = 1, a = 2} : () -> ()': "3:24: the attribute `a` stands twice",
    '"cnet.x"() {a = } : () -> ()': "3:21: expected an attribute, found `}`",
    '"cnet.x"() {a = 1e-5 : f64} : () -> ()': "3:22: expected `,`, found `e`",
    '"cnet.x"() {a = 99999999999999999999} : () -> ()': "3:21: an integer must fit 64 bits",
    '"cnet.x"() {a = array<i64: 1, x>} : () -> ()': "3:21: expected numbers of type i64, found `1, x`",
    '"cnet.x"() {a = array<u7: 1>} : () -> ()': "3:21: `u7` is no element type of an array",
    '"cnet.x"() {a = 0x7FF : f32, b = 0x7FF800000 : f32} : () -> ()': "3:38: 0x7FF800000 has more than 8 digits, those of an f32",
    '"cnet.x"() {a = "no end} : () -> ()': '3:21: this string has no closing `"` on its line',
    '"cnet.x"() {a = "\\q"} : () -> ()': '3:21: unknown escape; known are \\" \\\\ \\n \\t and \\HH',
    '"cnet.x"() {a = "\\FF"} : () -> ()': "3:21: the bytes of this string are not UTF-8",
    '"cnet.x"() : () -> () loc("f":3)': "3:36: expected `:`, found `)`",
    '%y = "cnet.x"() : () -> tensor<2x?xf32>': "3:29: expected an extent, found `?`",
    '%y = "cnet.x"() : () -> tensor<2x3xbf16>': "3:29: `bf16` is no element type; known are f32, f64, i32, i64, i1, i8",
    '%y = "cnet.x"() : () -> tensor<3xf32, 1>': "3:29: a tensor has no layout",
    '%y = "cnet.x"() : () -> tensor 3': "3:29: expected a tensor type such as tensor<4x8xf32>",
    '%y = "cnet.x"() : () -> memref<2x3xf32, strided<[1]>>': "3:29: 1 strides for 2 axes",
    '%y = "cnet.x"() : () -> memref<2xf32, strided<[a]>>': "3:29: strides and offset are integers of 64 bits or `?`",
    '%y = "cnet.x"() : () -> memref<2xf32, row>': "3:29: expected a layout such as strided<[8, 1], offset: 4>",
    '%y = "cnet.x"() : () -> tensor<9999999999999x9999999999999xf32>': "3:29: a tensor may not have more than 2^40 elements",
    '%y = "cnet.x"() : () -> tensor<' + "9" * 5000 + "xf32>": "3:29: a type may not have more than 2^40 elements",
    '%y = "cnet.x"() : () -> tensor<' + "1x" * 40 + "f32>": "3:29: a type may not have more than 32 axes",
    '%y = "cnet.x"() : () -> !t4': "3:29: unknown type !t4",
    "%y = arith.adf %f, %f : f32": "3:10: unknown operation arith.adf [did you mean `arith.addf`?]",
    "%y = cnet.relu %f : f32": '3:10: unknown operation cnet.relu [ops outside MLIR\'s own dialects are written "cnet.relu"(..) : (..) -> ..]',
    "%y = arith.addf %f, %f : f64": "3:30: %f has type f32, not f64",
    "%y = arith.cmpf olt, %f : f32": "3:29: expected `,`, found `:`",
    "%y = arith.cmpi olt, %n, %n : index": "3:21: expected one of eq, ne, slt, sle, sgt, sge, ult, ule, ugt, uge, found `olt`",
    "%y = arith.constant 1 : f32": "3:25: expected a float such as 1.0, found `1`",
    "%y = arith.constant 1 : tensor<3xf32>": "3:29: a constant is a scalar, not tensor<3xf32>",
    "%y = arith.addf %f, %f fastmath<quick> : f32": "3:37: expected one of reassoc, nnan, ninf, nsz, arcp, contract, afn, fast, none, found `quick`",
    "%y = memref.load %f[%n] : f32": "3:22: expected a memref, found a value of type f32",
    "scf.for %i = %n to %n step %f {}": "3:35: the bounds and the step must have type index",
    "%y = scf.for %i = %n to %n step %n iter_args(%a = %f) -> (index) {}": "3:62: the types of carried values are those of their initial values",
    "func.call @g(%f) : () -> ()": "3:24: the operands have types (f32)",
    "%y = %f": "3:10: expected an operation, found `%f`",
    "^bb1:": "3:5: expected an operation, found `^bb1`",
    "§": "3:5: unexpected character '§'",
}


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_errors_in_a_line(line: str) -> None:
    assert message(inside(line)) == "d.mlir:" + LINES[line]


TEXTS = {
    "": "1:1: expected `module` or `func.func`, found the end of the text",
    "func.func @f() {": "1:17: expected an operation, found the end of the text",
    "func.func private @f() func.func private @f()": "1:24: there are two functions @f",
    "func.func private @f() }": "1:24: expected an operation, found `}`",
    "func.func private @f() module @m {}": "1:24: unknown operation module",
    "module @m {": "1:12: expected an operation, found the end of the text",
    "module @m {} x": "1:14: expected the end of the text, found `x`",
    "module @m { func.func @f() {} }": "1:28: @f does not end in func.return",
    "module @m { func.func @f() -> f32 { func.return } }": "1:35: @f returns (), but says (f32)",
    "module @m { func.func private @f() func.func private @f() }": "1:36: there are two functions @f",
    "!a = f32 !a = f64 module {}": "1:10: !a is defined twice",
    "module @m { func.func @f(%x: f32, %x: f32) { func.return } }": "1:35: %x is defined twice; first in line 1",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_errors_of_a_text(text: str) -> None:
    assert message(text) == "d.mlir:" + TEXTS[text]


def test_an_error_shows_its_line() -> None:
    with pytest.raises(ConcatcError) as error:
        parse_module(inside('%y = "cnet.relu"(%q) : (f32) -> f32'), "d.mlir")
    assert str(error.value) == (
        'd.mlir:3:22: error: %q is not defined here\n    %y = "cnet.relu"(%q) : (f32) -> f32\n                     ^^'
    )


def test_values_of_a_region_end_with_it() -> None:
    text = inside("scf.for %i = %n to %n step %n {} \n %y = arith.addi %i, %i : index")
    assert message(text) == "d.mlir:4:18: %i is not defined here"


def test_a_function_does_not_see_another() -> None:
    text = 'module { func.func @f(%x: f32) { func.return } func.func @g() { "cnet.x"(%x) : (f32) -> () func.return } }'
    assert message(text) == "d.mlir:1:74: %x is not defined here"


DEEP = 20_000


@pytest.mark.parametrize(
    "line",
    [
        '"cnet.x"() {a = ' + "[" * DEEP + "]" * DEEP + "} : () -> ()",
        '"cnet.x"() {a = ' + "{a = " * DEEP + "1" + "}" * DEEP + "} : () -> ()",
        '"cnet.x"() : ' + "(" * DEEP,
        '"cnet.x"() {a = ' + "() -> " * DEEP + "f32} : () -> ()",
        '"cnet.x"() ({ ' * DEEP,
        "scf.for %n = %n to %n step %n { " * 1 + "scf.if %c { " * DEEP,
        "scf.if %c { " * DEEP,
    ],
    ids=range(7),
)
def test_deep_nesting_is_an_error(line: str) -> None:
    # Whatever is wrong first is reported; the stack bears it.
    assert message(inside(line)).startswith("d.mlir:3:")


def test_nesting_that_is_allowed() -> None:
    depth = 50
    loops = "".join(f"scf.for %i{k} = %n to %n step %n {{\n" for k in range(depth)) + "}\n" * depth
    assert len(list(parse_module(inside(loops)).walk())) == 2 * depth + 2  # each loop has its scf.yield


def test_reading_takes_linear_time() -> None:
    lines = "\n".join(f'%y{k} = "cnet.relu"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>' for k in range(20_000))
    assert len(parse_module(inside(lines)).main.ops) == 20_001


def test_damaged_texts_end_in_an_error_or_a_module() -> None:
    """Cut, doubled and swapped characters: never another exception."""
    text = every_op()
    rng = random.Random(0)
    failures = 0
    for _ in range(400):
        at, to = rng.randrange(len(text)), rng.randrange(len(text))
        length = rng.randrange(1, 30)
        damaged = rng.choice(
            [
                text[:at] + text[at + length :],
                text[:at] + text[to : to + length] + text[at:],
                text[:at] + rng.choice('(){}[]<>%@!^#":,=-0a\n?\\') + text[at + 1 :],
                text[:at],
            ]
        )
        try:
            parse_module(damaged, "d.mlir")
        except ConcatcError as error:
            failures += 1
            assert error.diagnostics[0].loc is not None
    assert failures > 200
