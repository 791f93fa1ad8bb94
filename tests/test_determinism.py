"""Same source, same options: the same bytes of IR, plan and generated code, whatever the hash seed of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import hashlib, sys
import concatc
dims = {k: int(v) for k, v in (pair.split("=") for pair in sys.argv[2:])}
net = concatc.compile(sys.argv[1], dims=dims, target="cpu")
for level in ("graph", "split", "joint", "optimized", "kernels", "plan", "loops"):
    print(level, hashlib.sha256(net.ir(level).encode()).hexdigest())
print("kernels", hashlib.sha256(net.kernels.encode()).hexdigest())
"""
NETS = {
    "thread.cnet": {},
    "nets/densenet40.cnet": {"n": 2, "depth": 3},
    "nets/two_tower.cnet": {"n": 4},
    "nets/unet.cnet": {"n": 1, "levels": 2},
}


def digests(net: str, dims: dict[str, int], seed: str, cache: Path) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "CONCATC_CACHE_DIR": str(cache)}
    arguments = [str(ROOT / "examples" / net), *(f"{k}={v}" for k, v in dims.items())]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("net", NETS)
def test_two_processes_make_the_same_bytes(net: str, tmp_path: Path) -> None:
    first = digests(net, NETS[net], "1", tmp_path / "a")
    second = digests(net, NETS[net], "2", tmp_path / "b")
    assert first.count("\n") == 8
    assert first == second
