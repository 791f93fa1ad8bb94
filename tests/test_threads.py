"""Several threads: the same bits, whatever is cut; modules at the same time, forks, exits, failures, edited loops."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.diagnostics import UsageError
from concatc.ir.parser import parse_module
from concatc.loops.cuts import Cut, Stretch, cutting_of
from concatc.runtime import threads as count_module
from concatc.runtime.threads import VARIABLE, thread_count
from concatc.targets.cache import Cache
from concatc.targets.cpu import chunks
from concatc.targets.cpu.executable import runner_of
from concatc.targets.cpu.native import host, object_code
from concatc.targets.cpu.runner_ir import runner_ir
from concatc.targets.cpu.step import RUNNER, NativeStep, StepNumbers, StepTable
from concatc.targets.cpu.step import Row as TableRow
from concatc.targets.cpu.step_table import step_table
from concatc.targets.cpu.units import StepUnit
from tests.example_nets import CASES, NETS, Case, inputs_of
from tests.table_step import cuts_on

ROOT = Path(__file__).parents[1]
COUNTS = (2, 3, 7)
BRANCHY = [case for case in CASES if case.name in ("densenet40", "inception", "residual", "two_tower", "unet")]


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are cut however small they are."""
    monkeypatch.setattr(chunks, "WORTH", 1)
    monkeypatch.setattr(chunks, "LEAST", 1)


# -- the same bits -----------------------------------------------------------------------------------------------------


def arrays_of(net: concatc.CompiledModule, case: Case) -> dict[str, np.ndarray]:
    return {k: x.astype("f4") if x.dtype == "f8" else x for k, x in inputs_of(net, case).items()}


def results(net: concatc.CompiledModule, arrays: dict[str, np.ndarray], backward: bool) -> dict[str, bytes]:
    net.init(seed=1)
    found = {f"out:{name}": np.array(value) for name, value in net.forward(arrays).items()}
    if backward:
        found |= {f"grad:{name}": np.array(value) for name, value in net.backward().items()}
    found |= {f"eval:{name}": np.array(v) for name, v in net.eval(arrays).items()} if "infer" in net_phases(net) else {}
    return {name: value.tobytes() for name, value in found.items()}


def net_phases(net: concatc.CompiledModule) -> tuple[str, ...]:
    return net._source.phases


@pytest.mark.parametrize("case", BRANCHY, ids=lambda case: case.name)
def test_results_have_the_same_bits_for_any_number_of_threads(case: Case, cut_small: None) -> None:
    compiled = concatc.compile(NETS / f"{case.name}.cnet", dims=case.dims)
    nets = {n: concatc.CompiledModule(compiled._source, n) for n in (1, *COUNTS)}
    arrays = arrays_of(nets[1], case)
    expected = results(nets[1], arrays, bool(nets[1].signature.loss_weights))
    for n in COUNTS:
        for _ in range(2):
            assert results(nets[n], arrays, bool(nets[n].signature.loss_weights)) == expected
        cut = [
            step
            for i in nets[n]._plans.instances.values()
            for e in i._executables.values()
            for step in e._steps.values()
        ]
        assert any(step.cut_rows for step in cut)


def test_train_steps_and_other_batch_sizes_have_the_same_bits(cut_small: None) -> None:
    found = []
    for n in (1, 2, 5):
        net = concatc.compile(ROOT / "examples" / "thread.cnet", dims={"x": 6}, threads=n)
        net.init(seed=3)
        optimizer = concatc.Adam(lr=0.01)
        rng = np.random.default_rng(0)
        losses = []
        for view in (net, net.with_dims(x=9), net):
            arrays = {
                name: rng.normal(size=spec.type.shape).astype("f4")
                if spec.type.dtype == "f32"
                else rng.integers(0, 10, spec.type.shape).astype("i4")
                for name, spec in view.signature.inputs.items()
            }
            losses.append(view.train_step(arrays, optimizer=optimizer)["loss"])
        found.append((losses, {name: value.tobytes() for name, value in net.params.items()}))
    assert found[0] == found[1] == found[2]


# -- how many ----------------------------------------------------------------------------------------------------------


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(count_module, "_usable_cores", lambda: 3)
    assert thread_count(None) == 3
    monkeypatch.setenv(VARIABLE, "5")
    assert thread_count(None) == 5
    assert thread_count(2) == 2
    net = concatc.compile(NETS / "two_task.cnet", threads=4)
    assert net.threads == net.with_dims(n=3).threads == 4


@pytest.mark.parametrize("nonsense", [0, -1, 257, True, 1.5, "2"])
def test_nonsense_is_refused(nonsense: object) -> None:
    with pytest.raises(UsageError, match="threads must be a number from 1 to 256"):
        concatc.compile(NETS / "two_task.cnet", threads=nonsense)  # type: ignore[arg-type]


@pytest.mark.parametrize("nonsense", ["abc", "0", "-2", "1.5", "300", "²"])
def test_a_nonsensical_variable_is_refused(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, nonsense)
    with pytest.raises(UsageError, match=f"{VARIABLE} must be a number from 1 to 256, not `{nonsense}`"):
        concatc.compile(NETS / "two_task.cnet")


def test_the_commands_take_a_number() -> None:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "concatc", "run", str(NETS / "two_task.cnet"), "--dim", "n=2", *arguments]
        environment = {**os.environ, **variables}
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)

    refused = run("--threads", "0")
    assert refused.returncode != 0 and "threads must be a number from 1 to 256, not 0" in refused.stderr
    refused = run(CONCATC_NUM_THREADS="abc")
    assert refused.returncode != 0 and "not `abc`" in refused.stderr and "Traceback" not in refused.stderr


# -- what runs beside each other ---------------------------------------------------------------------------------------

BUSY = """
import sys, threading, os
import numpy as np
import concatc
from concatc.targets.cpu import chunks
chunks.WORTH = chunks.LEAST = 1
NET = {net!r}
net = concatc.compile(NET, dims={{"n": 4, "size": 8, "depth": 3}}, threads=3)
rng = np.random.default_rng(0)
x = {{"image": rng.normal(size=net.signature.inputs["image"].type.shape).astype("f4"),
     "label": np.zeros(4, "i4")}}
def step():
    net.init(seed=0)
    return net.forward(x)["loss"].tobytes() + b"".join(g.tobytes() for g in net.backward().values())
first = step()
"""


def run_python(code: str) -> str:
    source = BUSY.format(net=str(NETS / "densenet40.cnet")) + code
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_may_fork_after_use_and_in_between() -> None:
    found = run_python(
        """
def child(depth):
    pid = os.fork()
    if pid == 0:
        same = all(step() == first for _ in range(3))
        if depth:
            same &= child(depth - 1)
        os._exit(0 if same else 1)
    return os.waitpid(pid, 0)[1] == 0
stop = threading.Event()
def others():
    other = concatc.compile(NET, dims={"n": 4, "size": 8, "depth": 3}, threads=2)
    while not stop.is_set():
        other.train_step(x)
thread = threading.Thread(target=others)
thread.start()
same = [child(1) for _ in range(4)]
stop.set(); thread.join()
print(same, step() == first)
"""
    )
    assert found == "[True, True, True, True] True\n"


def test_a_process_ends_while_threads_work() -> None:
    run_python(
        """
def forever():
    while True:
        net.train_step(x)
threading.Thread(target=forever, daemon=True).start()
for _ in range(3):
    other = concatc.compile(NET, dims={"n": 4, "size": 8, "depth": 3}, threads=2)
    other.train_step(x)
    del other
"""
    )


def test_modules_run_at_the_same_time(cut_small: None) -> None:
    case = next(case for case in CASES if case.name == "densenet40")
    compiled = concatc.compile(NETS / "densenet40.cnet", dims=case.dims)
    nets = [concatc.CompiledModule(compiled._source, n) for n in (1, 2, 3, 4)]
    arrays = arrays_of(nets[0], case)
    expected = results(nets[0], arrays, True)
    wrong: list[int] = []

    def run(net: concatc.CompiledModule) -> None:
        wrong.extend(net.threads for _ in range(20) if results(net, arrays, True) != expected)

    workers = [threading.Thread(target=run, args=(net,)) for net in nets]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# -- chunks ------------------------------------------------------------------------------------------------------------

KERNEL = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_void_p,) * 3, *(ctypes.c_int64,) * 3, ctypes.c_void_p)


def native_step(kernels: dict[str, Callable[[int, int], int]], threads: int, extent: int) -> NativeStep:
    """A step of these kernels, one after the other, each over ``extent`` iterations that may be cut."""
    pointers = {name: KERNEL(lambda b, w, s, a, begin, end, _, do=do: do(begin, end)) for name, do in kernels.items()}
    rows = [TableRow(name, "forward", (), (), 0, 0, extent, (), ()) for name in kernels]
    cuts = dict.fromkeys(kernels, Cut((Stretch((), False, ((1 << 30, True, ()),)),)))
    table = StepNumbers.of(StepTable([("arena", 0)], rows, cuts))
    addresses = {name: ctypes.cast(pointer, ctypes.c_void_p).value or 0 for name, pointer in pointers.items()}
    runner = runner_of(object_code(StepUnit(host()).llvm_ir(Cache(Path())), host()))
    step = NativeStep(table, runner.address(RUNNER), addresses, threads)
    step.kept = pointers  # type: ignore[attr-defined]
    return step


def test_a_module_of_another_release_runs_its_tables_by_its_own_code() -> None:
    """Rows are read by the code that they were written for; nets of one release share it, and its threads."""
    text = StepUnit(host()).llvm_ir(Cache(Path()))
    mine, other = (object_code(t, host()) for t in (text, text + "\ndefine i32 @rows() {\n  ret i32 7\n}\n"))
    assert runner_of(mine) is runner_of(bytes(bytearray(mine)))
    assert runner_of(other) is not runner_of(mine)
    assert runner_of(other).address(RUNNER) != runner_of(mine).address(RUNNER)


@pytest.mark.parametrize("threads", [1, 2, 5, 16])
def test_every_iteration_is_run_once_and_in_order_of_rows(threads: int) -> None:
    done: list[tuple[str, int, int]] = []
    names = [f"k{k}" for k in range(20)]

    def kernel(name: str) -> Callable[[int, int], int]:
        return lambda begin, end: done.append((name, begin, end)) or 0  # type: ignore[func-returns-value]

    step = native_step({name: kernel(name) for name in names}, threads, 37)
    for _ in range(10):
        done.clear()
        step.run({}, "forward")
        assert [name for name, _, _ in done] == sorted((name for name, _, _ in done), key=names.index)
        for name in names:
            covered = sorted((begin, end) for row, begin, end in done if row == name)
            assert [i for begin, end in covered for i in range(begin, end)] == list(range(37))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_chunk_that_fails_ends_the_step_with_the_name_of_its_kernel(threads: int) -> None:
    ran: list[str] = []

    def fails(begin: int, end: int) -> int:
        return 7 if begin <= 30 < end else 0

    kernels = {
        "good": lambda *_: ran.append("good") or 0,  # type: ignore[func-returns-value]
        "bad": fails,
        "behind": lambda *_: ran.append("behind") or 0,  # type: ignore[func-returns-value]
    }
    step = native_step(kernels, threads, 40)
    for _ in range(3):
        with pytest.raises(concatc.ConcatcError, match="the kernel bad failed"):
            step.run({}, "forward")
    assert "behind" not in ran and "good" in ran


def test_chunks_follow_from_shapes() -> None:
    work = ((1 << 20, True, (0,)),)
    assert chunks.chunk_of(Stretch((), False, work), 64, [8], 2) == 8
    assert chunks.chunk_of(Stretch((), True, work), 64, [8], 2) == 32  # some work is done in each chunk
    assert chunks.chunk_of(Stretch((), False, work, grain=12), 64, [8], 2) == 12
    assert chunks.chunk_of(Stretch((), False, work, grain=64), 64, [8], 2) == 0
    assert chunks.chunk_of(Stretch((), False, work), 1, [8], 2) == 0
    assert chunks.chunk_of(Stretch((), False, work, alone=True), 64, [8], 2) == 0
    assert chunks.chunk_of(Stretch((), False, ((1, True, ()),)), 64, [8], 2) == 0  # not worth it


# -- what may be cut ---------------------------------------------------------------------------------------------------

HEAD = """
module @m {
func.func @step() { func.return }
func.func private @k(%begin: index, %end: index, %n_j: index, %x: memref<?x?xf32>, %y: memref<?x?xf32> {cnet.noalias},
                     %s: memref<?xf32> {cnet.scratch}) attributes {cnet.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
"""
TAIL = "\n  func.return\n}\n}\n"
LOAD = "%v = memref.load %x[%i, %j] : memref<?x?xf32>"
CASES_OF_LOOPS = {
    "rows": (
        f"""scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        (False, 0),
    ),
    "columns, all rows in each chunk": (
        f"""scf.for %i = %c0 to %n_j step %c1 {{ scf.for %j = %begin to %end step %c1 {{
        {LOAD} memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        (False, 0),
    ),
    "scratch of one row": (
        f"""scf.for %i = %begin to %end step %c1 {{
        scf.for %j = %c0 to %n_j step %c1 {{ {LOAD} memref.store %v, %s[%j] : memref<?xf32> }}
        scf.for %j = %c0 to %n_j step %c1 {{
          %v = memref.load %s[%j] : memref<?xf32> memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        (False, 1),
    ),
    "scratch that every chunk fills": (
        f"""scf.for %i = %c0 to %c1 step %c1 {{
        scf.for %j = %c0 to %n_j step %c1 {{ {LOAD} memref.store %v, %s[%j] : memref<?xf32> }} }}
        scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
          %v = memref.load %s[%j] : memref<?xf32> memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        (True, 1),
    ),
    "sums of a chunk's own columns": (
        f"""scf.for %i = %c0 to %n_j step %c1 {{ scf.for %j = %begin to %end step %c1 {{
          {LOAD} %o = memref.load %s[%j] : memref<?xf32> %t = arith.addf %o, %v : f32
          memref.store %t, %s[%j] : memref<?xf32> }} }}
        scf.for %j = %begin to %end step %c1 {{
          %v = memref.load %s[%j] : memref<?xf32> memref.store %v, %y[%c0, %j] : memref<?x?xf32> }}""",
        (False, 0),
    ),
    "a sum over rows": (
        f"""scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} %o = memref.load %y[%c0, %j] : memref<?x?xf32> %t = arith.addf %o, %v : f32
        memref.store %t, %y[%c0, %j] : memref<?x?xf32> }} }}""",
        None,
    ),
    "what the row before left": (
        f"""scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} %o = memref.load %s[%j] : memref<?xf32> memref.store %v, %s[%j] : memref<?xf32>
        memref.store %o, %y[%i, %j] : memref<?x?xf32> }} }}""",
        None,
    ),
    "the row before": (
        """scf.for %i = %begin to %end step %c1 { scf.for %j = %c0 to %n_j step %c1 {
        %k = arith.addi %i, %c1 : index %v = memref.load %y[%k, %j] : memref<?x?xf32>
        memref.store %v, %y[%i, %j] : memref<?x?xf32> } }""",
        None,
    ),
    "the first chunk does more": (
        f"""%first = arith.cmpi eq, %begin, %c0 : index
        scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        None,
    ),
    "scratch of one chunk, read behind": (
        f"""scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} memref.store %v, %s[%j] : memref<?xf32> }} }}
        scf.for %i = %begin to %end step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
          %v = memref.load %s[%j] : memref<?xf32> memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        None,
    ),
    "a store outside": (
        f"""scf.for %i = %c0 to %n_j step %c1 {{ scf.for %j = %c0 to %n_j step %c1 {{
        {LOAD} memref.store %v, %y[%i, %j] : memref<?x?xf32> }} }}""",
        None,
    ),
}


@pytest.mark.parametrize("name", CASES_OF_LOOPS)
def test_which_loops_may_be_cut(name: str) -> None:
    text, expected = CASES_OF_LOOPS[name]
    found = cutting_of(parse_module(HEAD + text + TAIL).function("k"))
    is_whole = found is None or found.cut.stretches[0].alone
    assert (None if is_whole or found is None else (found.cut.stretches[0].repeats, len(found.cut.private))) == expected


def test_a_result_over_an_argument_is_cut_where_chunks_agree() -> None:
    text = CASES_OF_LOOPS["rows"][0]
    kernel = HEAD.partition("func.func private")[2].replace(" {cnet.noalias}", "") + text + TAIL

    def cut(x: str, y: str) -> bool:
        return "k" in cuts_on(kernel, sizes=1, matrices=[x, y], apart_bytes=4)

    assert cut("%d", "%d")
    assert not cut("%d", "%e")


def test_an_edited_loop_that_adds_up_is_run_by_one_thread() -> None:
    net = concatc.compile_source("net n(n = 8) {\n input x: f32[n, 5]\n y = relu(x)\n output y\n}")
    text = net.ir("loops", phase="infer")
    assert step_table(parse_module(text)).cuts
    edited = text.replace("%old = memref.load %y_[%i0i1]", "%old = memref.load %y_[%c1]")
    assert edited != text and not step_table(parse_module(edited)).cuts


# -- memory, other machines --------------------------------------------------------------------------------------------


def test_memory_says_what_threads_have_of_their_own(cut_small: None) -> None:
    case = next(case for case in CASES if case.name == "residual")
    alone, together = (concatc.compile(NETS / "residual.cnet", dims=case.dims, threads=n) for n in (1, 2))
    for net in (alone, together):
        net.train_step(arrays_of(net, case))
    assert "threads:" not in str(alone.memory) and alone.memory.data()["train"]["thread_bytes"] == 0
    taken = together.memory.data()["train"]["thread_bytes"]
    assert taken > 0 and taken % 128 == 0 and "besides, scratch of each one's own" in str(together.memory)
    assert {**together.memory.data()["train"], "thread_bytes": 0} == alone.memory.data()["train"]


@pytest.mark.parametrize("machine", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin", "riscv64-unknown-linux-gnu"])
def test_the_runner_is_made_for_other_machines(machine: str) -> None:
    text = runner_ir(machine)
    assert "PAUSE" not in text and "SIG_SETMASK" not in text
    assert ("i32 @pthread_sigmask(i32 3" in text) == ("darwin" in machine)


def test_a_written_module_keeps_its_cuts(tmp_path: Path, cut_small: None) -> None:
    case = next(case for case in CASES if case.name == "unet")
    command = [sys.executable, "-m", "concatc", "compile", str(NETS / "unet.cnet"), "-o", str(tmp_path / "unet")]
    for name, value in case.dims.items():
        command += ["--dim", f"{name}={value}"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = json.loads((tmp_path / "unet" / "train" / "step.jsonl").read_text().partition("\n")[0])
    assert first["cuts"]
    found = []
    for n in (1, 3):
        net = concatc.load(tmp_path / "unet", threads=n)
        net.init(seed=1)
        losses = [view.train_step(arrays_of(view, case))["loss"] for view in (net, net.with_dims(n=5))]
        found.append([np.array(loss).tobytes() for loss in losses])
    assert found[0] == found[1]
