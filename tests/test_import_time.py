"""What is imported when: `import concatc` is cheap, and `concatc --help` answers at once."""

from __future__ import annotations

import resource
import subprocess
import sys

HEAVY = ("numpy", "numba", "llvmlite", "lark", "rich", "safetensors", "click")


def loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint(*(n for n in {HEAVY!r} if n in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import concatc") == set()


def test_public_names_are_there_without_loading_a_target() -> None:
    assert loaded_after("import concatc\nconcatc.SGD, concatc.Adam, concatc.CompiledModule") <= {"numpy"}


def test_dir_lists_the_public_names_and_loads_nothing() -> None:
    code = (
        "import concatc\n"
        "names = [n for n in dir(concatc) if not n.startswith('_')]\n"
        "assert names == sorted(concatc.__all__) and 'SGD' in names, names"
    )
    assert loaded_after(code) == set()


def test_reference_target_needs_neither_numba_nor_llvmlite() -> None:
    code = (
        "import concatc\n"
        "net = concatc.compile_source('net f(n = 2) { input x: f32[n, 3]; output relu(x) as y }', target='reference')\n"
        "net.eval(x=[[1, -1, 2], [0, 1, 2]])"
    )
    assert loaded_after(code) == {"numpy", "lark"}


def test_help_loads_only_click() -> None:
    code = "from concatc.cli.main import exit_code\nassert exit_code(['--help']) == 0"
    assert loaded_after(code) == {"click"}


def test_help_within_three_tenths_of_a_second() -> None:
    """Of processor time, which other processes on the machine do not change as they change the time on the clock."""
    best = min(_cpu_seconds() for _ in range(5))
    assert best < 0.3


def _cpu_seconds() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "concatc", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
