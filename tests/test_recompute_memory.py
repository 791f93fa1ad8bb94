"""What recomputation is worth on the example nets, at their own sizes, as the planner places them."""

from __future__ import annotations

from pathlib import Path

import pytest

from concatc.compiler import Options, compile_net
from concatc.passes.choose_recompute import Mode
from concatc.passes.graph import is_backward
from tests.nets.random_nets import seeded_recipe

NETS = Path(__file__).parents[1] / "examples" / "nets"
# The deepest nets are planned with a smaller batch: the ratio of the modes is the same, and the test is short.
SMALL = {"densenet121": {"n": 1, "size": 64}, "densenet_bc100": {"n": 4}}


def bases(name: str, mode: Mode = "auto", **dims: int) -> dict[str, int]:
    net = compile_net((NETS / f"{name}.cnet").read_text(), f"{name}.cnet", Options(dims=dims, recompute=mode))
    return {base.name: base.size_bytes for base in net.phase("train").plan.bases.values()}


def feature_bytes(name: str, **dims: int) -> int:
    """Everything but parameters, gradients and states."""
    found = bases(name, **dims)
    return found["arena"] + found["inputs"] + found["outputs"]


@pytest.mark.parametrize("name", sorted(path.stem for path in NETS.glob("*.cnet")))
def test_more_recomputation_never_needs_more(name: str) -> None:
    none, auto, most = (bases(name, mode, **SMALL.get(name, {}))["arena"] for mode in ("none", "auto", "max"))
    assert most <= auto <= none


@pytest.mark.parametrize("seed", [14, 19, 40, 0, 7])
def test_more_recomputation_keeps_no_more_between_the_halves(seed: int) -> None:
    """Also in tiny nets, whose peak may be elsewhere: the arenas of the first three are larger with `max`."""
    source = seeded_recipe(seed, 16).source()

    def kept_bytes(mode: Mode) -> int:
        net = compile_net(source, "random.cnet", Options(recompute=mode)).phase("train").level("optimized").main
        forward = [result for op in net.ops[:-1] if not is_backward(op) for result in op.results]
        return sum(4 * r.tensor.numel for r in forward if any(is_backward(use.op) for use in r.uses))

    assert kept_bytes("max") <= kept_bytes("auto")


@pytest.mark.parametrize(
    ("name", "depth", "values", "dims"),
    [
        ("growing", "layers", (32, 64), {}),
        ("densenet40", "depth", (12, 24), {"n": 8, "size": 16}),
        ("densenet_bc100", "depth", (8, 16), {"n": 2}),
    ],
)
def test_feature_maps_grow_with_depth_only(
    name: str, depth: str, values: tuple[int, int], dims: dict[str, int]
) -> None:
    """Twice the layers need at most 2.1 times the bytes, batch norm included."""
    shallow, deep = (feature_bytes(name, **{**dims, depth: value}) for value in values)
    assert deep <= 2.1 * shallow
