"""Kernels of several stretches: threads meet between them, sums over images have parts; chunks in any order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.ir.core import FuncOp, Module
from concatc.ir.parser import parse_module
from concatc.ir.types import I1, INDEX, NUMPY_DTYPES, MemRefType
from concatc.loops.cuts import Cut, Stretch, cutting_of
from concatc.loops.leading_digit import leading_step
from concatc.targets.cpu.chunks import Share, shared_part, shares_of
from concatc.targets.cpu.step import Row, StepNumbers, StepTable
from concatc.targets.cpu.step_table import step_table
from concatc.targets.reference.loop_interpreter import call
from tests.example_nets import CASES, NETS, Case
from tests.test_threads import arrays_of, cut_small, results

__all__ = ["cut_small"]  # a fixture
BATCH_OF_ONE = ("inception", "residual", "squeezenet", "two_task")
SMALL = {
    "residual": {"n": 3, "width": 17, "size": 3, "depth": 1},
    "unet": {"n": 3, "width": 17, "size": 2, "levels": 1},
}


def loops_of(name: str, dims: dict[str, int], precision: str) -> Module:
    path = NETS / f"{name}.cnet"
    return compile_net(path.read_text(), path.name, Options(dims=dims, precision=precision)).phase("train").loops


# -- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "n"),
    [(case, n) for case in CASES for n in ((1, 5) if case.name in BATCH_OF_ONE else (5,))],
    ids=lambda value: value.name if isinstance(value, Case) else f"batch {value}",
)
def test_small_and_odd_batches_have_the_same_bits(case: Case, n: int, cut_small: None) -> None:
    dims = {**case.dims, **({"n": n} if "n" in case.dims else {})}
    compiled = concatc.compile(NETS / f"{case.name}.cnet", dims=dims)
    expected: dict[str, bytes] = {}
    for threads in (1, 2, 3, 5):
        net = concatc.CompiledModule(compiled._source, threads)
        found = results(net, arrays_of(net, case), bool(net.signature.loss_weights))
        expected = expected or found
        assert found == expected


@pytest.mark.parametrize("name", ["residual", "unet"])
def test_winograd_has_the_same_bits(name: str, cut_small: None) -> None:
    """Channels enough for tiles, and parts of unequal size, some of them empty."""
    for n in (3, 6):
        case = Case(name, {"n": n, "width": 32, "size": 8}, {"label": 4, "mask": 2})
        compiled = concatc.compile(NETS / f"{name}.cnet", dims=case.dims, precision="high")
        assert "winograd" in compiled.ir("kernels")
        nets = [concatc.CompiledModule(compiled._source, threads) for threads in (1, 2, 5)]
        first, *others = [results(net, arrays_of(net, case), True) for net in nets]
        assert all(other == first for other in others)


def test_winograd_of_one_image_has_the_same_bits(cut_small: None) -> None:
    """Alone and among others: blocks of tiles are stretches of their own, or stand in a loop over images."""
    found: dict[int, list[bytes]] = {}
    x = np.random.default_rng(0).normal(size=(2, 32, 24, 24)).astype("f4")
    for n in (1, 2):
        compiled = concatc.compile_source(ONE_IMAGE, dims={"n": n}, precision="high")
        assert "winograd" in compiled.ir("kernels")
        for threads in (1, 2, 5):
            net = concatc.CompiledModule(compiled._source, threads)
            net.init(seed=0)
            found.setdefault(n, []).append(net.eval({"x": x[:n]})["z"][:1].tobytes())
    assert len({*found[1], *found[2]}) == 1


ONE_IMAGE = """
net one(n = 1) {
    input x: f32[n, 32, 24, 24]
    y = x |> relu |> conv(32, kernel=3, pad=1) |> relu
    z = y + conv(y, 32, kernel=3, pad=1)
    output z
}
"""


# -- chunks in any order -----------------------------------------------------------------------------------------------


def arguments_of(kernel: FuncOp, operands: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Arguments for a call: memory of its own for each window, scratch memory of NaN."""
    made: list[Any] = []
    for arg, operand in zip(kernel.args, operands, strict=True):
        if arg.type == INDEX or arg.type == I1:
            made.append(operand.op.attributes["value"])
            continue
        type = operand.type
        source = operand
        while source.op.name == "memref.cast":
            source = source.op.operands[0]
        assert isinstance(type, MemRefType) and isinstance(source.type, MemRefType)
        dtype = NUMPY_DTYPES[type.dtype]
        shape = tuple(n or 0 for n in source.type.shape)
        if arg.attrs.get("cnet.scratch"):
            made.append(np.full(shape, np.nan if dtype in ("float32", "float64") else 77, dtype))
        else:
            made.append(rng.normal(size=shape).astype(dtype) if dtype != "int32" else rng.integers(0, 2, shape, dtype))
    return made


@pytest.mark.parametrize("name", SMALL)
def test_chunks_may_run_in_any_order_with_scratch_of_their_own(name: str) -> None:
    """What one chunk leaves in private memory another one never reads: it is NaN in between."""
    loops = loops_of(name, SMALL[name], "exact")
    step, functions = loops.main, {f.sym_name: f for f in loops.functions}
    rng = np.random.default_rng(0)
    several = 0
    done: set[str] = set()
    for op in (op for op in step.ops if op.name == "func.call"):
        kernel = functions[op.attributes["callee"].name]  # type: ignore[union-attr]
        cutting = cutting_of(kernel)
        ops = kernel.sym_name.partition("_")[2]
        if cutting is None or ops in done or len(cutting.cut.stretches) == 1:
            continue
        done.add(ops)
        several += 1
        whole = arguments_of(kernel, op.operands, rng)
        if sum(x.size for x in whole if isinstance(x, np.ndarray)) > 20_000:
            continue
        cut = [x.copy() if isinstance(x, np.ndarray) else x for x in whole]
        with np.errstate(all="ignore"):
            call(kernel, whole)
            run_in_chunks(kernel, cut, cutting.cut)
        memory = [x for arg, x in zip(kernel.args, whole, strict=True) if not arg.attrs.get("cnet.scratch")]
        other = [x for arg, x in zip(kernel.args, cut, strict=True) if not arg.attrs.get("cnet.scratch")]
        for a, b in zip(memory, other, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), kernel.sym_name
    assert several > 1


def run_in_chunks(kernel: FuncOp, arguments: list[Any], cut: Cut) -> None:
    """Each stretch in chunks of one iteration, the last one first; what is private is NaN before each."""
    begin, end = arguments[:2]
    memory = [k for k, arg in enumerate(kernel.args) if isinstance(arg.type, MemRefType)]
    numbers = [0, *itertools.accumulate(2 + kernel.args[k].type.rank for k in memory)]  # type: ignore[union-attr]
    sizes = [x for arg, x in zip(kernel.args, arguments, strict=True) if arg.type == INDEX][2:]
    at = begin
    for stretch in cut.stretches:
        until = stretch.end(at, end, sizes)
        for first in reversed(range(at, until)) if not stretch.alone else [at]:
            for private in stretch.private:
                arguments[memory[numbers.index(private)]][...] = np.nan
            call(kernel, [first, first + 1 if not stretch.alone else until, *arguments[2:]])
        at = until
    assert at == end


@pytest.mark.parametrize("precision", ["high", "exact"])
@pytest.mark.parametrize("name", ["densenet40", "inception", "residual", "unet"])
def test_contractions_over_images_are_cut(name: str, precision: str) -> None:
    """At the sizes that they are used at, all of each contraction of four axes or more may be cut."""
    loops = loops_of(name, {"n": 4}, precision)
    cuts = step_table(loops).cuts
    left = []
    for kernel in loops.functions[1:]:
        if "conv" in kernel.sym_name and kernel.declared is None:
            cut = cuts.get(kernel.sym_name)
            if cut is None or any(stretch.alone for stretch in cut.stretches):
                left.append(kernel.sym_name)
    assert not left


# -- stretches ---------------------------------------------------------------------------------------------------------

KERNEL = """
module @m {{
func.func @step() {{ func.return }}
func.func private @k(%begin: index, %end: index, %n: index, %m: index, %x: memref<?xf32>,
                     %y: memref<?xf32> {{cnet.noalias}},
                     %s: memref<?xf32> {{cnet.scratch}}) attributes {{cnet.kernel}} {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %e0 = arith.minsi %end, %n : index
  %b = arith.subi %begin, {before} : index
  %b1 = arith.maxsi %b, %c0 : index
  %e1 = arith.subi %end, %n : index
  scf.for %i = %begin to %e0 step %c1 {{
    %v = memref.load %x[%i] : memref<?xf32>
    memref.store %v, %s[{place}] : memref<?xf32>
  }}
  scf.for %j = %b1 to %e1 step %c1 {{
    %v = memref.load %s[{read}] : memref<?xf32>
    memref.store %v, %y[%j] : memref<?xf32>
  }}
  func.return
}}
}}
"""


def cutting(before: str = "%n", place: str = "%i", read: str = "%c0") -> Cut | None:
    found = cutting_of(parse_module(KERNEL.format(before=before, place=place, read=read)).function("k"))
    return None if found is None else found.cut


def test_what_one_stretch_stores_all_may_read_in_the_next() -> None:
    found = cutting()
    assert found is not None
    assert [(s.extent, s.alone, s.private) for s in found.stretches] == [((1, (0,)), False, ()), (None, False, ())]


def test_a_stretch_whose_iterations_store_one_element_is_run_by_one_thread() -> None:
    found = cutting(place="%c0")
    assert found is not None and [s.alone for s in found.stretches] == [True, False]


@pytest.mark.parametrize("before", ["%m", "%c1"])
def test_stretches_that_do_not_lie_one_behind_the_other_are_not_cut(before: str) -> None:
    assert cutting(before=before) is None


def test_an_index_of_which_the_loop_is_the_leading_digit_belongs_to_its_iteration() -> None:
    assert leading("%c0 to %c2", "%c5") == [5, None]
    assert leading("%c0 to %c1", "%c3") == [3, None]
    # Digits that reach into the next one or begin in it, and loops without constant bounds.
    assert leading("%c0 to %c3", "%c5") == [None, None]
    assert leading("%c1 to %c3", "%c5") == [None, None]
    assert leading("%c0 to %c2", "%c2") == [None, None]
    assert leading("%c0 to %n", "%c5") == [None, None]


def test_an_index_that_is_moved_on_belongs_to_another_iteration() -> None:
    assert leading("%c0 to %c1", "%c5", more="%c2") == [5, None]
    assert leading("%c0 to %c1", "%c5", more="%c3") == [None, None]
    assert leading("%c0 to %c2", "%c5", more="%c1") == [None, None]


def leading(inner: str, step: str, more: str = "%c0") -> list[int | None]:
    """The steps of ``i`` and ``j`` in ``i * step + k + 2 * j + more``; ``k`` in 0 .. 3."""
    (function,) = parse_module(DIGITS.format(inner=inner, step=step, more=more)).functions
    loops = [op for op in function.walk() if op.name == "scf.for"]
    (store,) = (op for op in function.walk() if op.name == "memref.store")
    return [leading_step(loop.regions[0].block.args[0], store.operands[2]) for loop in loops[:2]]


DIGITS = """
module {{
func.func private @k(%begin: index, %end: index, %n: index, %y: memref<?xf32>) attributes {{cnet.kernel}} {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  %c5 = arith.constant 5 : index
  %v = arith.constant 0.0 : f32
  scf.for %i = %begin to %end step %c1 {{
    scf.for %j = {inner} step %c1 {{
      scf.for %k = %c0 to %c3 step %c1 {{
        %a = arith.muli %i, {step} : index
        %b = arith.muli %c2, %j : index
        %ab = arith.addi %a, %b : index
        %abk = arith.addi %ab, %k : index
        %at = arith.addi %abk, {more} : index
        memref.store %v, %y[%at] : memref<?xf32>
      }}
    }}
  }}
  func.return
}}
}}
"""


def test_what_a_result_takes_from_a_stretch_before_may_not_be_private() -> None:
    found = cutting(read="%j")
    assert found is not None and not found.private


def test_shares_of_a_launch() -> None:
    """Neighbours that are not worth cutting are one share."""
    large, small = ((1 << 22, True, ()),), ((1, True, ()),)
    cut = Cut(
        (
            Stretch((), False, small, extent=(3, ())),
            Stretch((), False, small, extent=(1, (1,))),
            Stretch((7,), False, large, extent=(2, (0,))),
            Stretch((), False, large),
        )
    )
    shares = shares_of(cut, 0, 40, [8, 5], 2)
    assert shares == [Share(0, 8, 0, ()), Share(8, 24, 2, (7,)), Share(24, 40, 2, ())]
    assert shares_of(Cut((Stretch((), False, small),)), 0, 9, [], 2) == [Share(0, 9, 0, ())]


def test_which_part_of_a_launch_is_shared() -> None:
    """Three quarters of the iterations are in a stretch that is cut; one thread shares nothing."""
    work = ((1 << 22, True, ()),)
    cut = Cut((Stretch((), False, work, extent=(1, (0,)), alone=True), Stretch((), False, work)))
    rows = [Row(name, "forward", (), (4,), 0, 0, 16, (), ()) for name in ("cut", "whole")]
    table = StepNumbers.of(StepTable([("arena", 0)], rows, {"cut": cut}))
    assert [shared_part(table, row, 2) for row in (0, 1)] == [0.75, 0.0]
    assert shared_part(table, 0, 1) == 0
