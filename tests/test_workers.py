"""Processes that compile: what they make depends on nothing but the recipe, and nothing depends on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import concatc
from concatc.compiler import compile_net
from concatc.targets.cache import Cache
from concatc.targets.cpu import unit_worker, workers
from concatc.targets.cpu.native import host
from concatc.targets.cpu.objects import objects_of
from concatc.targets.cpu.units import SumUnit, Unit, unit_from, units_of
from concatc.targets.cpu.workers import Workers, worker_command, worker_count

NET = "net f(n = 4) { input x: f32[n, 3]; y = x |> linear(5) |> tanh |> layer_norm |> linear(2); output y }"


def units() -> list[Unit]:
    """The step, two products, and what Numba compiles."""
    lowered = compile_net(NET, "f.cnet").phase("infer").loops
    return units_of([f for f in lowered.functions[1:] if f.declared is None], host())[0]


def made(count: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[bytes]:
    monkeypatch.setenv("CONCATC_WORKERS", str(count))
    with Workers(host()) as compiling:
        return objects_of(units(), Cache(folder / str(count)), lambda: None, compiling)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The object code that this process makes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return made(0, monkeypatch, tmp_path_factory.mktemp("alone"))


def test_a_unit_reads_back_from_its_recipe(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    found = units()
    again = [unit_from(json.loads(json.dumps(unit.recipe(cache))), host())[0] for unit in found]
    assert [unit.key for unit in again] == [unit.key for unit in found]
    assert [unit.llvm_ir(cache) for unit in again] == [unit.llvm_ir(cache) for unit in found]
    assert [type(unit).__name__ for unit in found] == ["StepUnit", "SumUnit", "SumUnit", "NumbaUnit"]


def test_a_recipe_of_another_unit_is_refused(tmp_path: Path) -> None:
    unit = next(unit for unit in units() if isinstance(unit, SumUnit))
    with pytest.raises(ValueError, match="another unit"):
        unit_worker.followed({**unit.recipe(Cache(tmp_path)), "key": "0" * 64}, host())


def test_the_same_bytes_with_any_number_of_workers(
    alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(code.startswith(b"\x7fELF") for code in alone) or sys.platform != "linux"
    for count in (1, 2):
        assert made(count, monkeypatch, tmp_path) == alone


def test_workers_make_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process generates nothing, and needs no Numba."""
    monkeypatch.setenv("CONCATC_WORKERS", "2")
    cache = Cache(tmp_path)
    with Workers(host()) as compiling:
        compiling.begin()
        code = [compiling.submit({**unit.recipe(cache), "key": unit.key}) for unit in units()]
        assert all(each.result(timeout=120) for each in code)


def test_nobody_waits_for_numba_where_it_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_WORKERS", "1")
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(workers, "worker_command", lambda host: sleeps)
    with Workers(host()) as compiling:
        compiling.begin()
        while not compiling._processes:
            time.sleep(0.01)
    assert compiling._processes[0].poll() is not None


def test_what_costs_most_is_begun_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_WORKERS", "1")
    begun: list[object] = []
    monkeypatch.setattr(Workers, "_start_thread", lambda self: True)
    compiling = Workers(host())
    for cost in (3.0, 9.0, 1.0):
        compiling.submit({"kind": "sum", "cost": cost}, cost)
    compiling.submit({"kind": "numba"}, 99.0)
    begun += [compiling._next(is_first=False) for _ in range(2)]
    begun += [compiling._next(is_first=True) for _ in range(2)]
    assert [(job.recipe["kind"], -job.rank[0]) for job in begun] == [
        ("sum", 9.0),
        ("sum", 3.0),
        ("numba", 99.0),
        ("sum", 1.0),
    ]


def test_a_net_has_the_same_object_code_with_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "net f(n = 4) { input x: f32[n, 3]; y = x |> linear(5) |> tanh |> linear(2); output y }"
    found = []
    for count in (0, 2):
        directory = tmp_path / str(count)
        monkeypatch.setenv("CONCATC_CACHE_DIR", str(directory))
        monkeypatch.setenv("CONCATC_WORKERS", str(count))
        concatc.compile_source(text).eval(x=[[1, 2, 3]] * 4)
        found.append({path.name: path.read_bytes() for path in directory.rglob("*.o")})
    assert len(found[0]) > 2
    assert found[0] == found[1]


def test_workers_that_die_are_done_without(alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Workers._started

    def killed(self: Workers, command: list[str]) -> subprocess.Popen[bytes] | None:
        process = started(self, command)
        assert process is not None
        process.kill()
        return process

    monkeypatch.setattr(Workers, "_started", killed)
    assert made(2, monkeypatch, tmp_path) == alone


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.stdin.buffer.read(20)",  # ends in the middle of a recipe
        "import sys; sys.stdout.buffer.write(bytes([0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2]))",  # an answer cut short
        "import sys; sys.stdout.buffer.write(bytes([1, 0, 0, 0, 0, 0, 0, 0, 0]) * 9)",  # nothing can be compiled
    ],
)
def test_workers_that_are_no_workers_are_done_without(
    program: str, alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "worker_command", lambda host: [sys.executable, "-c", program])
    assert made(2, monkeypatch, tmp_path) == alone


def test_what_cannot_be_compiled_is_the_same_error_with_workers_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = []
    wrong = "define i32 @f(i32 %x) {\n  ret i32 %nothing\n}\n"
    monkeypatch.setattr(SumUnit, "llvm_ir", lambda self, cache: wrong)
    monkeypatch.setattr(SumUnit, "recipe", lambda self, cache: {"kind": "sum", "loops": ""})
    for count in (0, 2):
        with pytest.raises(RuntimeError) as caught:
            made(count, monkeypatch, tmp_path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "%nothing" in messages[0]


def test_workers_end_with_the_block_also_on_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_WORKERS", "2")
    compiling = Workers(host())
    with pytest.raises(KeyboardInterrupt), compiling:
        compiling.submit({"kind": "step", "key": "0"}).result(timeout=120)
        raise KeyboardInterrupt
    assert compiling._processes
    assert all(process.poll() is not None for process in compiling._processes)
    assert compiling.submit({"kind": "step", "key": "0"}).result(timeout=0) is None


@pytest.mark.parametrize("executable", ["", None, "/opt/app/app", "/nowhere/python3"])
def test_without_an_interpreter_code_is_compiled_here(
    executable: str | None, alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedded and frozen programs: what `sys.executable` names is not run unless it is Python."""
    monkeypatch.setattr(sys, "executable", executable)
    assert (worker_command(host()) is None) == (executable != "/nowhere/python3")
    assert made(2, monkeypatch, tmp_path) == alone


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert worker_command(host()) is None


def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCATC_WORKERS", raising=False)
    for cores, count in ((1, 0), (2, 2), (99, workers.MOST)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert worker_count() == count
    for text in ("-1", "two", ""):
        monkeypatch.setenv("CONCATC_WORKERS", text)
        with pytest.raises(concatc.UsageError, match="CONCATC_WORKERS is the number of processes"):
            worker_count()


def test_a_thread_that_outlives_the_main_thread_compiles() -> None:
    script = (
        "import sys, threading\n"
        "import concatc\n"
        f"net = {NET!r}\n"
        "def compile_late():\n"
        "    threading.main_thread().join()\n"
        "    print(concatc.compile_source(net).eval(x=[[1, 2, 3]] * 4)['y'].shape)\n"
        "threading.Thread(target=compile_late).start()\n"
    )
    environment = {**os.environ, "CONCATC_WORKERS": "2", "CONCATC_CACHE_DIR": "/dev/null/none"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("(4, 2)\n", "")


def test_the_first_nets_of_a_process_may_be_compiled_by_several_threads(tmp_path: Path) -> None:
    """Neither the import of Numba nor its typing and lowering is for several threads at a time."""
    script = (
        "import threading, concatc\n"
        "from concatc.targets.cpu import numba_compile\n"
        "net = 'net f(n = 2) {{ input x: f32[n, 3]; y = layer_norm(x) * {0}.0; output y }}'\n"
        "start, results, lowered = threading.Barrier(4), {}, numba_compile.numba_ir\n"
        "def meet(*given):\n"
        "    start.wait(60)\n"
        "    return lowered(*given)\n"
        "numba_compile.numba_ir = meet\n"
        "def work(k):\n"
        "    results[k] = concatc.compile_source(net.format(k)).eval(x=[[0, 1, 2], [3, 4, 5]])['y']\n"
        "threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(all((abs(results[k] - k * results[1]) < 1e-5).all() for k in range(1, 5)))\n"
    )
    environment = {**os.environ, "CONCATC_WORKERS": "0", "CONCATC_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_one_unit_alone_starts_no_process(alone: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    found = units()
    for unit, code in list(zip(found, alone, strict=True))[:-1]:
        cache.store(unit.key, code)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setenv("CONCATC_WORKERS", "2")
    with Workers(host()) as compiling:
        assert objects_of(found, cache, lambda: None, compiling) == alone


def test_a_worker_imports_nothing_of_the_users() -> None:
    """No `site`, no `PYTHONPATH`, not the current directory; no parser of nets, and Numba only when it is asked for."""
    command = worker_command(host())
    assert command is not None and command[1:4] == ["-I", "-S", unit_worker.__file__]
    script = (
        "import sys\n"
        f"sys.path += {command[5:]!r}\n"
        "from concatc.targets.cpu import units\n"
        "heavy = ('numba', 'site', 'lark')\n"
        "print(*(name for name in heavy if name in sys.modules), 'llvmlite' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"], done.stderr
