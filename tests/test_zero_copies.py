"""Concat, split and accumulate move no byte in the nets that the project is for: training, batch > 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from concatc.compiler import Compilation, Options
from concatc.inspect.memory import plan_report
from concatc.runtime.source import Phase

NETS = Path(__file__).parent.parent / "examples" / "nets"
CASES = {
    "densenet40": {"n": 4},
    "densenet_bc100": {"n": 2},
    "densenet121": {"n": 2, "size": 64},
    "googlenet": {"n": 2},
    "unet": {"n": 2},
    "residual": {"n": 2, "depth": 3},
    "squeezenet": {"n": 2},
    "siamese": {"n": 4},
    "two_tower": {"n": 4},
    "inception": {"n": 2},
    "two_task": {"n": 4},
}
# What else nets do: in the order of the names, heads of attention, of one product or of three, and beside a concat;
# every other channel; a residual beside a loss of one branch; one beside channels that are passed on; sums of what also
# stands in a concat.
LOSS = "loss softmax_loss(z |> flatten |> linear(3), label)"
NEIGHBOURS = {
    "attention": """
        q = x |> linear(8) |> reshape([n, 4, 2, 4]) |> transpose([0, 2, 1, 3])
        p = matmul(q, q, transpose_b=true) |> softmax(axis=3)
        z = matmul(p, q) |> transpose([0, 2, 1, 3]) |> reshape([n, 4, 8])
        loss softmax_loss(z |> linear(4) |> mean(axes=[1]) |> linear(3), label)
    """,
    "attention of three": f"""
        q = x |> linear(8) |> reshape([n, 4, 2, 4]) |> transpose([0, 2, 1, 3])
        k = x |> linear(8) |> reshape([n, 4, 2, 4]) |> transpose([0, 2, 1, 3])
        v = x |> linear(8) |> reshape([n, 4, 2, 4]) |> transpose([0, 2, 1, 3])
        p = matmul(q, k, transpose_b=true) |> softmax(axis=3)
        h = matmul(p, v) |> transpose([0, 2, 1, 3]) |> reshape([n, 4, 8])
        z = x + linear(h, 6)
        {LOSS}
    """,
    "attention in a concat": f"""
        q = x |> linear(8) |> reshape([n, 4, 2, 4]) |> transpose([0, 2, 1, 3])
        p = matmul(q, q, transpose_b=true) |> softmax(axis=3)
        h = matmul(p, q) |> transpose([0, 2, 1, 3]) |> reshape([n, 4, 8])
        z = concat(h, x |> linear(4), axis=2) |> linear(5)
        {LOSS}
    """,
    "channel shuffle": f"""
        u = concat(x |> linear(6), x |> linear(6) |> relu, axis=1)
        z = u |> reshape([n, 2, 4, 6]) |> transpose([0, 2, 1, 3]) |> reshape([n, 8, 6]) |> linear(5) |> relu
        {LOSS}
    """,
    "residual over two batches": """
        input both: i32[2 * n]
        a = x |> flatten |> linear(6) |> relu
        b = x |> flatten |> linear(6) |> relu
        h = concat(a, b, axis=0)
        z = h + (h |> linear(6) |> relu)
        loss softmax_loss(z |> linear(3), both)
        loss softmax_loss(a |> linear(3), label) as one
    """,
    "dual path": f"""
        t = x |> linear(12) |> relu
        r, d = slice(t, axis=2, sizes=[8, 4])
        z = concat(r + (t |> linear(8)), d, t |> linear(3), axis=2) |> linear(5)
        {LOSS}
    """,
    "sum beside its parts": f"""
        t = x |> linear(6) |> relu
        u = t |> linear(6) |> relu
        z = concat(t + u, u, t, axis=1) |> linear(6)
        {LOSS}
    """,
}
# Kernels of one op that only moves or adds what lies elsewhere.
MOVES = ("split", "concat", "slice", "accumulate", "reshape", "flatten", "transpose")


def what_moves(phase: Phase) -> tuple[dict[str, int], list[str]]:
    """Bytes moved, but for staging, and kernels that do nothing else."""
    moved = plan_report(phase.plan).moved_bytes
    alone = [
        k for k, f in phase.plan.kernels.items() if all(op.name.split(".")[1] in (*MOVES, "return") for op in f.ops)
    ]
    return {kind: n for kind, n in moved.items() if kind != "input staging" and n}, alone


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_moved(name: str) -> None:
    path = NETS / f"{name}.cnet"
    phase = Compilation(path.read_text(encoding="utf-8"), str(path), Options(dims=CASES[name])).phase("train")
    assert what_moves(phase) == ({}, [])


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_nothing_is_moved_in_what_else_nets_do(name: str) -> None:
    source = f"net f(n = 3) {{\ninput x: f32[n, 4, 6]\ninput label: i32[n]\n{NEIGHBOURS[name]}\n}}\n"
    assert what_moves(Compilation(source, "net.cnet", Options()).phase("train")) == ({}, [])
