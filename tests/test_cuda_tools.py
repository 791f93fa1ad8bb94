"""Programs of the CUDA toolkit: what they are told of a kernel, and what is said where they do not end well."""

from __future__ import annotations

from pathlib import Path

import pytest

from concatc.diagnostics import UsageError
from concatc.targets.cuda import ptx
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.launches import GpuLaunch


def test_bounds_are_of_the_largest_block_a_kernel_is_launched_with() -> None:
    launches = [
        GpuLaunch(kernel, 1, block, (), "forward", "k0") for kernel, block in [("a", 128), ("b", 64), ("a", 32)]
    ]
    assert ptx.largest_blocks(launches) == {"a": 128, "b": 64}


def program(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("exec sleep 5", 0o755, r"ptxas took more than 0\.1 s for one kernel\nhelp: try again"),
        ("echo wrong >&2; exit 1", 0o755, r"ptxas refuses a kernel for sm_90: wrong"),
        ("", 0o644, r"cannot run .*ptxas: Permission denied"),
    ],
)
def test_an_assembler_that_does_not_end_well_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, message: str
) -> None:
    found = program(tmp_path / "ptxas", text, mode)
    monkeypatch.setattr(ptx, "tool", lambda *_: found)
    monkeypatch.setattr(ptx, "_SECONDS", 0.1)
    with pytest.raises(UsageError, match=message):
        ptx.cubin_of("", Arch(9, 0))


def test_a_disassembler_that_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = program(tmp_path / "nvdisasm", "echo no device code >&2; exit 2")
    monkeypatch.setattr(ptx, "tool", lambda *_: found)
    with pytest.raises(UsageError, match="nvdisasm refuses device code: no device code"):
        ptx.sass_of(b"")
