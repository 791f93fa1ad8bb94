"""Loops inside of an iteration that are run in slices: which these are, that these are independent, how many."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.ir.core import FuncOp, Module
from concatc.ir.parser import parse_module
from concatc.ir.types import INDEX, MemRefType
from concatc.loops.cuts import Cut, Stretch, cutting_of
from concatc.loops.slices import Slicing
from concatc.targets.cpu.chunks import share, shares_of, slices_in
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table
from concatc.targets.reference.loop_interpreter import call
from tests.example_nets import NETS
from tests.table_step import cuts_on
from tests.test_stretches import arguments_of
from tests.test_threads import cut_small

__all__ = ["cut_small"]  # a fixture

HEAD = """
module @m {
func.func @step() { func.return }
func.func private @k(%begin: index, %end: index, %n_j: index, %n_o: index, %x: memref<?x?xf32>,
                     %w: memref<?x?xf32>, %y: memref<?x?xf32> {cnet.noalias},
                     %s: memref<?xf32> {cnet.scratch}) attributes {cnet.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
"""
TAIL = "\n  func.return\n}\n}\n"
PACK = """scf.for %j = %c0 to %n_j step %c1 {
  %v = memref.load %x[%i, %j] : memref<?x?xf32> memref.store %v, %s[%j] : memref<?xf32> }"""
# The extents, the windows that move with their axes, what each slice has of its own; None where nothing is sliced.
LOOPS: dict[str, tuple[str, tuple[list[int], list[tuple[int, int]], int] | None]] = {
    "rows of the result, a packed row in each slice": (
        f"""scf.for %i = %begin to %end step %c1 {{ {PACK}
        scf.for %o = %c0 to %n_o step %c1 {{
          %v = memref.load %s[%c1] : memref<?xf32> %u = memref.load %w[%o, %c0] : memref<?x?xf32>
          %t = arith.mulf %u, %v : f32 memref.store %t, %y[%i, %o] : memref<?x?xf32> }} }}""",
        ([1], [(4, 0), (8, 1)], 1),
    ),
    "two loops that hand elements on": (
        f"""scf.for %i = %begin to %end step %c1 {{ {PACK}
        scf.for %j = %c0 to %n_o step %c1 {{
          %v = memref.load %s[%j] : memref<?xf32> memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        ([0, 1], [(0, 1), (8, 1), (12, 0)], 0),
    ),
    "a sum over what is not sliced": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %v = memref.load %x[%i, %j] : memref<?x?xf32> %o = memref.load %y[%c0, %j] : memref<?x?xf32>
        %t = arith.addf %o, %v : f32 memref.store %t, %y[%c0, %j] : memref<?x?xf32> } }""",
        ([0], [(0, 1), (8, 1)], 0),
    ),
    "a neighbour is read": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %k = arith.addi %j, %c1 : index %v = memref.load %x[%i, %k] : memref<?x?xf32>
        memref.store %v, %y[%i, %j] : memref<?x?xf32> } }""",
        None,
    ),
    "one window, two places": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %v = memref.load %x[%i, %j] : memref<?x?xf32> %u = memref.load %x[%i, %c0] : memref<?x?xf32>
        %t = arith.addf %u, %v : f32 memref.store %t, %y[%i, %j] : memref<?x?xf32> } }""",
        None,
    ),
    "a result of all slices": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %v = memref.load %x[%i, %j] : memref<?x?xf32> memref.store %v, %y[%i, %c0] : memref<?x?xf32> } }""",
        None,
    ),
    "scratch memory that is read first": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %v = memref.load %s[%c0] : memref<?xf32> memref.store %v, %s[%c1] : memref<?xf32>
        memref.store %v, %y[%i, %j] : memref<?x?xf32> } }""",
        None,
    ),
    "the extent is a number, too": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %k = arith.subi %n_j, %c1 : index %v = memref.load %x[%i, %k] : memref<?x?xf32>
        memref.store %v, %y[%i, %j] : memref<?x?xf32> } }""",
        None,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_which_loops_are_sliced(name: str) -> None:
    text, expected = LOOPS[name]
    found = cutting_of(parse_module(HEAD + text + TAIL).function("k"))
    slicing = found.cut.stretches[0].slicing if found is not None else None
    moved = [] if slicing is None else [(at, axis) for at, axis, _ in slicing.moved]
    assert (None if slicing is None else (list(slicing.sizes), moved, len(slicing.private))) == expected


def test_scratch_memory_that_a_later_stretch_reads_is_no_slices_own() -> None:
    """The second nest reads what the first left behind, unless it stores there itself before."""
    first = f"""%e = arith.minsi %end, %n_j : index
        scf.for %i = %begin to %e step %c1 {{ {PACK}
        scf.for %o = %c0 to %n_o step %c1 {{
          %v = memref.load %s[%c1] : memref<?xf32> memref.store %v, %y[%i, %o] : memref<?x?xf32> }} }}
        %f = arith.subi %begin, %n_j : index %b = arith.maxsi %f, %c0 : index
        %g = arith.subi %end, %n_j : index"""

    def is_sliced(second: str) -> bool:
        text = f"{first} scf.for %i = %b to %g step %c1 {{ {second} }}"
        found = cutting_of(parse_module(HEAD + text + TAIL).function("k"))
        assert found is not None and len(found.cut.stretches) == 2
        return found.cut.stretches[0].slicing is not None

    read = "%v = memref.load %s[%c1] : memref<?xf32> memref.store %v, %w[%i, %c1] : memref<?x?xf32>"
    stored = "%u = memref.load %x[%i, %c0] : memref<?x?xf32> memref.store %u, %s[%c1] : memref<?xf32>"
    assert is_sliced(f"{stored} {read}") and not is_sliced(read)


def test_a_result_over_an_argument_is_sliced_where_slices_agree() -> None:
    """A result over the row that all slices read is stored by one thread."""
    text = """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %v = memref.load %x[%i, INDEX] : memref<?x?xf32> memref.store %v, %y[%i, %j] : memref<?x?xf32> } }"""
    kernel = HEAD.partition("func.func private")[2].replace(" {cnet.noalias}", "")

    def is_sliced(index: str, y: str) -> bool:
        whole = f"{kernel}{text.replace('INDEX', index)}{TAIL}"
        cut = cuts_on(whole, sizes=2, matrices=["%d", "%d", y], apart_bytes=256)["k"]
        return any(stretch.slicing is not None for stretch in cut.stretches)

    assert is_sliced("%j", "%d") and is_sliced("%j", "%e") and is_sliced("%c0", "%e")
    assert not is_sliced("%c0", "%d")


# -- nets --------------------------------------------------------------------------------------------------------------


def loops_of(phase: str) -> Module:
    path = NETS / "squeezenet.cnet"
    options = Options(dims={"n": 1, "size": 32, "width": 8, "classes": 5})
    compilation = compile_net(path.read_text(), path.name, options)
    return compilation.phase("train").loops if phase == "train" else compilation.phase("infer").loops


@pytest.mark.parametrize("phase", ["train", "infer"])
def test_slices_may_run_in_any_order_with_scratch_of_their_own(phase: str) -> None:
    """Slices of three iterations, the last one first, leave the bits that a launch leaves; private memory is NaN."""
    loops = loops_of(phase)
    functions = {f.sym_name: f for f in loops.functions}
    rng = np.random.default_rng(0)
    done: set[str] = set()
    for op in (op for op in loops.main.ops if op.name == "func.call"):
        kernel = functions[op.attributes["callee"].name]  # type: ignore[union-attr]
        cutting = cutting_of(kernel)
        kind = kernel.sym_name.partition("_")[2]
        if cutting is None or len(cutting.cut.stretches) > 1 or cutting.cut.stretches[0].slicing is None:
            continue
        whole = arguments_of(kernel, op.operands, rng)
        if kind in done or sum(x.size for x in whole if isinstance(x, np.ndarray)) > 20_000:
            continue
        done.add(kind)
        cut = [x.copy() if isinstance(x, np.ndarray) else x for x in whole]
        with np.errstate(all="ignore"):
            call(kernel, whole)
            run_in_slices(kernel, cut, cutting.cut.stretches[0].slicing)
        for arg, a, b in zip(kernel.args, whole, cut, strict=True):
            if not arg.attrs.get("cnet.scratch"):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), kernel.sym_name
    assert len(done) > 2


def run_in_slices(kernel: FuncOp, arguments: list[Any], slicing: Slicing) -> None:
    sizes = [k for k, arg in enumerate(kernel.args) if arg.type == INDEX][2:]
    memory, begin = {}, 0
    for k, arg in enumerate(kernel.args):
        if isinstance(arg.type, MemRefType):
            memory[begin] = k
            begin += 2 + arg.type.rank
    length = slicing.extent([arguments[k] for k in sizes])
    assert length
    for first in reversed(range(0, length, 3)):
        count = min(3, length - first)
        mine = list(arguments)
        for k in slicing.sizes:
            mine[sizes[k]] = count
        for at, axis, _ in slicing.moved:
            x = mine[memory[at]]
            mine[memory[at]] = x[(slice(None),) * axis + (slice(first, None),)]
        for at in slicing.private:
            mine[memory[at]] = np.full_like(mine[memory[at]], np.nan)
        call(kernel, mine)


@pytest.mark.parametrize("n", [1, 2])
def test_inference_of_few_images_is_sliced_and_has_the_same_bits(n: int, cut_small: None) -> None:
    dims = {"n": n, "size": 48, "width": 16, "classes": 10}
    compiled = concatc.compile(NETS / "squeezenet.cnet", dims=dims)
    image = np.random.default_rng(0).normal(size=(n, 3, 48, 48)).astype("f4")
    expected = None
    for threads in (1, 2, 3, 5):
        net = concatc.CompiledModule(compiled._source, threads)
        net.init(seed=1)
        for _ in range(3):
            found = {name: np.array(value).tobytes() for name, value in net.eval({"image": image}).items()}
            expected = expected or found
            assert found == expected
    table = StepNumbers.of(step_table(loops_of("infer")))
    assert share(table, 3).slices[:, 0].max() > 1 and not share(table, 1).slices.any()


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_slices_follow_from_shapes() -> None:
    def stretch(work: tuple[Any, ...], grain: int = 1) -> Stretch:
        slicing = Slicing((0,), (), (), work, 1, grain)
        return Stretch((), False, (((1 << 22), True, ()),), slicing=slicing)

    much = ((1 << 20, True, ()),)
    assert slices_in(stretch(much), 1, [8], 2) == tuple((k, k + 1) for k in range(8))
    assert slices_in(stretch(much, 4), 1, [10], 2) == ((0, 4), (4, 8), (8, 10))
    assert slices_in(stretch((*much, (1 << 20, False, ()))), 1, [8], 2) == ((0, 4), (4, 8))  # repeated in each
    assert slices_in(stretch((*much, (1 << 23, False, ()))), 1, [8], 2) == ()  # too much of it
    assert slices_in(stretch(((1, True, ()),)), 1, [8], 2) == ()  # not worth it
    assert slices_in(stretch(much), 1, [8], 1) == () and slices_in(Stretch((), False, much), 1, [8], 2) == ()
    # Images for all threads are not sliced.
    cut = Cut((stretch(much),))
    assert [bool(part.slices) for n in (1, 2, 8) for part in shares_of(cut, 0, n, [8], 2)] == [True, False, False]


def test_slices_as_text() -> None:
    cuts = list(step_table(loops_of("infer")).cuts.values())
    assert any(stretch.slicing is not None for cut in cuts for stretch in cut.stretches)
    assert [Cut.of(json.loads(json.dumps(cut.data()))) for cut in cuts] == cuts
