"""Processes that compile: what they make depends on nothing but the IR, and nothing depends on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite
import pytest

import concatc
from concatc.targets.cpu import llvm_worker, workers
from concatc.targets.cpu.native import host, object_code
from concatc.targets.cpu.workers import Workers, worker_command, worker_count

TEXTS = [f"define i32 @f{k}(i32 %x) {{\n  %y = mul i32 %x, {k + 3}\n  ret i32 %y\n}}\n" for k in range(6)]
WRONG = "define i32 @f(i32 %x) {\n  ret i32 %nothing\n}\n"


def made(count: int, monkeypatch: pytest.MonkeyPatch, texts: list[str] = TEXTS) -> list[bytes]:
    monkeypatch.setenv("CONCATC_WORKERS", str(count))
    with Workers(host(), len(texts)) as compiling:
        code = [compiling.submit(text) for text in texts]
        return [each.result(timeout=120) for each in code]


def test_the_same_bytes_with_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [object_code(text, host()) for text in TEXTS]
    assert all(code.startswith(b"\x7fELF") for code in alone) or sys.platform != "linux"
    assert [made(count, monkeypatch) for count in (0, 1, 2)] == [alone] * 3


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


def test_workers_that_die_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [object_code(text, host()) for text in TEXTS]
    started = Workers._started

    def killed(self: Workers, command: list[str]) -> subprocess.Popen[bytes] | None:
        process = started(self, command)
        assert process is not None
        process.kill()
        return process

    monkeypatch.setattr(Workers, "_started", killed)
    assert made(2, monkeypatch) == alone


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.stdin.buffer.read(20)",  # ends in the middle of a module
        "import sys; sys.stdout.buffer.write(bytes([0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 2]))",  # an answer cut short
    ],
)
def test_workers_that_are_no_workers_are_done_without(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "worker_command", lambda host: [sys.executable, "-c", program])
    assert made(2, monkeypatch) == [object_code(text, host()) for text in TEXTS]


def test_a_mistake_is_the_same_error_with_workers_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []
    for count in (0, 2):
        with pytest.raises(RuntimeError) as caught:
            made(count, monkeypatch, [TEXTS[0], WRONG, TEXTS[1]])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "%nothing" in messages[0]


def test_workers_end_with_the_block_also_on_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_WORKERS", "2")
    compiling = Workers(host(), 4)
    with pytest.raises(KeyboardInterrupt), compiling:
        compiling.submit(TEXTS[0]).result(timeout=120)
        raise KeyboardInterrupt
    assert compiling._processes
    assert all(process.poll() is not None for process in compiling._processes)


@pytest.mark.parametrize("executable", ["", None, "/opt/app/app", "/nowhere/python3"])
def test_without_an_interpreter_code_is_compiled_here(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded and frozen programs: what `sys.executable` names is not run unless it is Python."""
    monkeypatch.setattr(sys, "executable", executable)
    assert (worker_command(host()) is None) == (executable != "/nowhere/python3")
    assert made(2, monkeypatch, TEXTS[:2]) == [object_code(text, host()) for text in TEXTS[:2]]


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


def test_a_thread_that_outlives_the_main_thread_compiles_here() -> None:
    """Python starts no pools of threads by then; those that are there take no more work."""
    script = (
        "import sys, threading\n"
        "from concatc.targets.cpu.native import host, object_code\n"
        "from concatc.targets.cpu.workers import Workers\n"
        f"texts = {TEXTS[:2]!r}\n"
        "def compile_late(workers):\n"
        "    threading.main_thread().join()\n"
        "    workers = workers or Workers(host(), 2)\n"
        "    made = [workers.submit(text).result(timeout=120) for text in texts]\n"
        "    print(made == [object_code(text, host()) for text in texts])\n"
        "early = Workers(host(), 2) if sys.argv[1] == 'early' else None\n"
        "threading.Thread(target=compile_late, args=(early,)).start()\n"
    )
    for when in ("early", "late"):
        environment = {**os.environ, "CONCATC_WORKERS": "2"}
        command = [sys.executable, "-c", script, when]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr) == ("True\n", "")


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


def test_one_module_alone_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert made(2, monkeypatch, TEXTS[:1]) == [object_code(TEXTS[0], host())]


def test_a_worker_imports_llvmlite_only() -> None:
    """Neither NumPy nor concatc, and nothing of the user's: no `site`, no `PYTHONPATH`, not the current directory."""
    script = (
        "import runpy, sys\n"
        f"sys.path.append({str(Path(llvmlite.__file__).parent.parent)!r})\n"
        f"worker = runpy.run_path({llvm_worker.__file__!r})\n"
        f"worker['object_code']({TEXTS[0]!r}, {host().name!r}, {host().features!r})\n"
        "heavy = ('numpy', 'numba', 'concatc', 'site', 'lark')\n"
        "print(*(name for name in heavy if name in sys.modules), 'llvmlite' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"], done.stderr
    command = worker_command(host())
    assert command is not None and command[1:3] == ["-I", "-S"]
