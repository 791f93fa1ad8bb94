"""The printer of Numba source: names, precedence, constants; what it prints compiles and does what the loops do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from concatc.ir.core import Module
from concatc.ir.parser import parse_module
from concatc.ir.types import ELEMENT_BYTES
from concatc.passes.check_step import step_bases, step_calls
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.numba_source import numba_module
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.reference.loop_interpreter import run_loops
from tests.test_loops import T, dense_plan, kernel, relu_kernel


def source_of(*kernels: object) -> str:
    return numba_module(lower_to_loops(dense_plan(*kernels)).functions[1:])[0]  # type: ignore[arg-type]


def module_with(body: str, dtype: str = "i32") -> Module:
    """A module whose only kernel reads x[i], y[i] and writes z[i], eight elements each."""
    size = 8 * ELEMENT_BYTES[dtype]
    memory = f"memref<8x{dtype}>"
    views = "\n".join(
        f"    %{n} = memref.view %arena[%o{k}][] : memref<{3 * size}xi8> to {memory}" for k, n in enumerate("xyz")
    )
    offsets = "\n".join(f"    %o{k} = arith.constant {k * size} : index" for k in range(3))
    return parse_module(f"""module @m {{
  func.func @step(%arena: memref<{3 * size}xi8>) {{
{offsets}
    %n = arith.constant 8 : index
{views}
    func.call @k(%o0, %n, %x, %y, %z) {{cnet.phase = "forward"}} : (index, index, {memory}, {memory}, {memory}) -> ()
    func.return
  }}
  func.func private @k(%begin: index, %end: index, %x: {memory}, %y: {memory}, %z: {memory})
      attributes {{cnet.kernel}} {{
    %one = arith.constant 1 : index
    scf.for %i = %begin to %end step %one {{
      %a = memref.load %x[%i] : {memory}
      %b = memref.load %y[%i] : {memory}
{body}
      memref.store %r, %z[%i] : {memory}
    }}
    func.return
  }}
}}
""")


def both(module: Module, x: np.ndarray, y: np.ndarray, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """The result of the native code, and of the loop interpreter."""
    results = []
    for native in (True, False):
        arena = np.concatenate([x, y, np.zeros_like(x)]).view(np.uint8)
        if native:
            CpuTarget(Cache(directory)).build_loops(module).run({"arena": arena}, "step")
        else:
            run_loops(module, {"arena": arena})
        results.append(arena.view(x.dtype)[16:])
    return results[0], results[1]


INTEGERS = (
    np.array([0, 1, -1, 7, 2**31 - 1, -(2**31), 123456789, -987654321], np.int32),
    np.array([3, 2**31 - 1, -1, 5, 2, 1, 31, 17], np.int32),
)


@pytest.mark.parametrize("name", ["addi", "subi", "muli", "andi", "ori", "xori", "maxsi", "minsi"])
def test_integers_wrap(name: str, tmp_path: Path) -> None:
    got, want = both(module_with(f"      %r = arith.{name} %a, %b : i32"), *INTEGERS, tmp_path)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["shli", "shrui"])
def test_shifts_are_unsigned(name: str, tmp_path: Path) -> None:
    body = f"""      %c = arith.constant 31 : i32
      %d = arith.andi %b, %c : i32
      %r = arith.{name} %a, %d : i32"""
    got, want = both(module_with(body), *INTEGERS, tmp_path)
    np.testing.assert_array_equal(got, want)


BYTES = (
    np.array([0, 1, -1, 127, -128, 100, -100, 2], np.int8),
    np.array([1, -1, -128, 1, -1, 100, 56, 7], np.int8),
)


@pytest.mark.parametrize("name", ["addi", "muli", "xori", "maxsi", "shrui"])
def test_bytes_wrap(name: str, tmp_path: Path) -> None:
    body = f"""      %c = arith.constant 7 : i8
      %d = arith.andi %b, %c : i8
      %r = arith.{name} %a, {"%d" if name == "shrui" else "%b"} : i8"""
    got, want = both(module_with(body, "i8"), *BYTES, tmp_path)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["extsi", "extui"])
def test_bytes_are_extended(name: str, tmp_path: Path) -> None:
    body = f"""      %c = arith.{name} %a : i8 to i32
      %d = arith.{name} %b : i8 to i32
      %e = arith.addi %c, %d : i32
      %n = arith.constant 100 : i32
      %m = arith.cmpi slt, %e, %n : i32
      %r = arith.select %m, %a, %b : i8"""
    got, want = both(module_with(body, "i8"), *BYTES, tmp_path)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["divsi", "remsi"])
def test_division_of_natural_numbers(name: str, tmp_path: Path) -> None:
    x, y = np.arange(8, dtype=np.int32) * 5, np.arange(8, dtype=np.int32) + 1
    got, want = both(module_with(f"      %r = arith.{name} %a, %b : i32"), x, y, tmp_path)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    "body",
    [
        "      %c = arith.subf %a, %b : T\n      %r = arith.subf %a, %c : T",
        "      %c = arith.divf %a, %b : T\n      %r = arith.divf %a, %c : T",
        "      %c = arith.addf %a, %b : T\n      %d = arith.mulf %c, %b : T\n      %r = arith.negf %d : T",
        "      %c = arith.mulf %a, %b : T\n      %r = arith.addf %a, %c : T",
        "      %c = arith.constant 0.1 : T\n      %r = arith.mulf %a, %c : T",
        "      %c = arith.constant 1.0e-30 : T\n      %d = arith.mulf %a, %c : T\n      %r = arith.divf %d, %c : T",
        "      %c = arith.cmpf olt, %a, %b : T\n      %r = arith.select %c, %a, %b : T",
        "      %c = arith.maximumf %a, %b : T\n      %r = arith.minimumf %c, %a : T",
        "      %c = math.absf %a : T\n      %d = math.sqrt %c : T\n      %r = math.floor %d : T",
    ],
)
def test_floats_keep_their_type_and_order(body: str, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8)).astype(np.float32 if dtype == "f32" else np.float64) * 3
    module = module_with(body.replace(": T", f": {dtype}"), dtype)
    got, want = both(module, x, y, tmp_path)
    np.testing.assert_array_equal(got, want)


def test_constants_are_named_by_type_and_value() -> None:
    source = source_of(kernel("k", [T((3,))], lambda b, x: b.add_scalar(b.mul_scalar(x, value=-0.5), value=1e-5)))
    assert "f32_minus_0_5 = f32(-0.5)" in source
    assert "f32_1em05 = f32(1e-05)" in source


def test_names_that_would_clash_are_changed() -> None:
    made = relu_kernel("k", 3, 4)
    made.args[0].name = "f32_0"
    other = relu_kernel("k.2", 3)
    other.args[0].name = "lambda"
    third = kernel("k_2", [T((3,)), T((3,))], lambda b, x, y: b.add(x, y))
    third.args[0].name, third.args[1].name = "é x", "maximum"
    source, names = numba_module(lower_to_loops(dense_plan(made, third, other, gap=1)).functions[1:])
    assert len(set(names.values())) == len(names)
    assert "f32_0_," in source.replace("f32_0__s0,", "")
    compile(source, "generated", "exec")


def test_a_kernel_may_be_called_like_a_function_of_the_c_library(tmp_path: Path) -> None:
    plan = dense_plan(kernel("tanhf", [T((5,))], lambda b, x: b.tanh(x)))
    arena = np.zeros(plan.bases["arena"].size_bytes, np.uint8)
    CpuTarget(Cache(tmp_path)).build_loops(lower_to_loops(plan)).run({"arena": arena}, "step")


def test_strides_get_names_of_their_own() -> None:
    made = kernel("k", [T((3, 4)), T((3, 4))], lambda b, x, y: b.add(x, y))
    made.args[0].name, made.args[1].name = "x", "x_s0"
    compile(source_of_gaps(made), "generated", "exec")


def source_of_gaps(made: object) -> str:
    return numba_module(lower_to_loops(dense_plan(made, gap=1)).functions[1:])[0]  # type: ignore[arg-type]


IN_PLACE = """module @m {
  func.func @step(%arena: memref<64xi8>) {
    %o = arith.constant 0 : index
    %n = arith.constant 8 : index
    %p = arith.constant 32 : index
    %x = memref.view %arena[%o][] : memref<64xi8> to memref<8xf32>
    %y = memref.view %arena[%p][] : memref<64xi8> to memref<8xf32>
    func.call @k(%o, %n, %y, %x, %x) {cnet.phase = "forward"}
        : (index, index, memref<8xf32>, memref<8xf32>, memref<8xf32>) -> ()
    func.return
  }
  func.func private @k(%begin: index, %end: index, %y: memref<8xf32>, %x: memref<8xf32>,
                       %z: memref<8xf32> {cnet.same = 3 : i64}) attributes {cnet.kernel} {
    %one = arith.constant 1 : index
    scf.for %i = %begin to %end step %one {
      %a = memref.load %x[%i] : memref<8xf32>
      %b = memref.load %y[%i] : memref<8xf32>
      %r = arith.addf %a, %b : f32
      memref.store %r, %z[%i] : memref<8xf32>
    }
    func.return
  }
}
"""


def test_what_works_in_place_has_one_pointer_and_is_vector_code_without_checks(tmp_path: Path) -> None:
    module = parse_module(IN_PLACE)
    source, _ = numba_module(module.functions[1:])
    assert "# z is x" in source
    assert "x[i] = x[i] + y[i]" in source
    target = CpuTarget(Cache(tmp_path))
    _, generated = target.compile_loops(module)
    text = generated.text("llvm")
    assert "memcheck" not in text
    assert re.search(r"fadd <\d+ x float>", text)
    arena = np.arange(16, dtype=np.float32)
    target.build_loops(module).run({"arena": arena.view(np.uint8)}, "step")
    np.testing.assert_array_equal(arena[:8], np.arange(8) + np.arange(8, 16))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%y, %x, %x)", "%y, %x, %y)", "%z is to lie where %x does"),
        ("cnet.same = 3", "cnet.same = 7", "%z: `cnet.same` is the number of an argument of its type before it"),
        ("cnet.same = 3", "cnet.same = 0", "%z: `cnet.same` is the number of an argument of its type before it"),
        ("%y, %x, %x)", "%x, %x, %x)", "%z is to overlap %x alone, but shares bytes with %y"),
    ],
)
def test_what_calls_say_of_places_is_checked(old: str, new: str, message: str) -> None:
    module = parse_module(IN_PLACE.replace(old, new, 1))
    bases, _ = step_bases(module.main)
    _, problems = step_calls(module, bases)
    assert f"@k: {message}" in [p.message for p in problems]
