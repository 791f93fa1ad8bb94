"""Object code in memory: found by name, wherever the process has room for it, and refused where it is broken."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from concatc.diagnostics import ConcatcError
from concatc.targets.cpu.native import Library, host, object_code

ROOT = Path(__file__).parent.parent

SEVEN = "define i32 @seven() { ret i32 7 }"
LACKING = "declare i32 @nowhere() define i32 @lacking() { %x = call i32 @nowhere() ret i32 %x }"

SCATTERED = """
import ctypes, mmap
from concatc.targets.cpu.native import Library, host, object_code

TEXT = '''
@table = constant [16384 x i32] [{elements}]
define i32 @element(i64 %at) {{
  %place = getelementptr [16384 x i32], ptr @table, i64 0, i64 %at
  %value = load i32, ptr %place
  ret i32 %value
}}
'''
code = object_code(TEXT.format(elements=", ".join(f"i32 {3 * i}" for i in range(16384))), host())
host()

# Every gap in the addresses is closed, but for some that hold the code or its table, 4 GiB from each other.
reserved = dict(flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
kept = [mmap.mmap(-1, 4096, **reserved) for _ in range(3000)]
gaps = []
for _ in range(12):
    kept.append(mmap.mmap(-1, 4 << 30, **reserved))
    gaps.append(mmap.mmap(-1, 1 << 16, **reserved))
kept.append(mmap.mmap(-1, 4 << 30, **reserved))
for gap in gaps:
    gap.close()

library = Library([code], ["element"])
element = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(library.address("element"))
print(element(5), element(16383))
"""


def test_functions_of_several_objects_are_found() -> None:
    eight = SEVEN.replace("seven", "eight").replace("7", "8")
    library = Library([object_code(SEVEN, host()), object_code(eight, host())], ["seven", "eight"])
    call = ctypes.CFUNCTYPE(ctypes.c_int32)
    assert (call(library.address("seven"))(), call(library.address("eight"))()) == (7, 8)


def test_libraries_hold_functions_of_one_name_apart() -> None:
    libraries = [Library([object_code(SEVEN.replace("7", str(number)), host())], ["seven"]) for number in (7, 9)]
    assert [ctypes.CFUNCTYPE(ctypes.c_int32)(library.address("seven"))() for library in libraries] == [7, 9]


@pytest.mark.parametrize(
    ("name", "message"), [("eight", "not found: . eight"), ("lacking", "cannot be loaded: Failed")]
)
def test_what_is_not_there_is_an_error(name: str, message: str) -> None:
    with pytest.raises(ConcatcError, match=message):
        Library([object_code(SEVEN, host()), object_code(LACKING, host())], ["seven", name])


@pytest.mark.parametrize("cut", [slice(3), slice(200), slice(-8)], ids=["no object", "head", "end"])
def test_broken_object_code_is_an_error(cut: slice) -> None:
    with pytest.raises(ConcatcError, match="cannot be loaded"):
        Library([object_code(SEVEN, host())[cut]], ["seven"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs addresses that are given out in order")
def test_code_finds_its_constants_in_scattered_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCATTERED], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "15 49149\n"), done.stderr
