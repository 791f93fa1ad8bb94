"""Random nets through every level, pass, text and plan, 60 of 1,000 on the cpu target too, 40 on the
emulator of the cuda target; and all against PyTorch.

`python -m tests.fuzz` runs more of them.  What it found lies in `tests/nets/found` and is run here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from concatc.frontend.cnet import load
from concatc.ops.tanh import TanhGrad
from tests.fuzz import failure_of, shrink
from tests.nets import checks
from tests.nets.checks import TEXTS, Check, NetFailure, check_against_torch, check_net
from tests.nets.random_nets import recipes, seeded_recipe
from tests.nets.recipe import Recipe

FOUND = sorted((Path(__file__).parent / "nets" / "found").glob("*.cnet"))
CHUNKS, NETS_A_CHUNK, CPU_NETS, CUDA_NETS = 20, 50, 60, 40
NO_TORCH = "PyTorch is not installed (the extra `peers`)"


def seeds(chunk: int) -> range:
    return range(chunk * NETS_A_CHUNK, (chunk + 1) * NETS_A_CHUNK)


def quick_check(seed: int, cpu: Path | None, cuda: bool = False) -> Check:
    """The text of one level, and finite differences for every fifth net: among 1,000 nets all of it is done often."""
    return Check(cpu=cpu, cuda=cuda, finite_differences=int(seed % 5 == 0), texts=(TEXTS[seed % 4], "loops"))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_nets(chunk: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The nets of seeds 0 to 999."""
    cache = tmp_path_factory.getbasetemp() / "random-nets"
    for seed in seeds(chunk):
        on_cpu = seed % (CHUNKS * NETS_A_CHUNK // CPU_NETS) == 0
        on_cuda = seed % (CHUNKS * NETS_A_CHUNK // CUDA_NETS) == 7
        source = seeded_recipe(seed).source()
        try:
            check_net(source, quick_check(seed, cache if on_cpu else None, on_cuda), seed)
        except NetFailure as failure:
            again = f"python -m tests.fuzz --seed {seed} --count 1 --cpu {int(on_cpu)} --cuda {int(on_cuda)}"
            pytest.fail(f"seed {seed}: {failure}\n{source}\nrun `{again}`")


@pytest.mark.peers
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_nets_equal_torch(chunk: int) -> None:
    """The same nets: every result and gradient is PyTorch's."""
    pytest.importorskip("torch", reason=NO_TORCH)
    for seed in seeds(chunk):
        source = seeded_recipe(seed).source()
        try:
            check_against_torch(source, seed)
        except NetFailure as failure:
            pytest.fail(f"seed {seed}: {failure}\n{source}")


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(recipes(most=8))
def test_drawn_nets(recipe: Recipe) -> None:
    """The same, drawn by hypothesis, which shrinks what fails."""
    check_net(recipe.source(), Check(finite_differences=1))


@pytest.mark.parametrize("path", FOUND, ids=[p.stem for p in FOUND])
def test_found_nets(path: Path, tmp_path: Path) -> None:
    """Nets that failed once: the seed of their data stands in the first line."""
    source, seed = found_net(path)
    check_net(source, Check(cpu=tmp_path, cuda=True), seed)


@pytest.mark.peers
@pytest.mark.parametrize("path", FOUND, ids=[p.stem for p in FOUND])
def test_found_nets_equal_torch(path: Path) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    check_against_torch(*found_net(path))


def found_net(path: Path) -> tuple[str, int]:
    """A net and the seed of its data."""
    text = path.read_text(encoding="utf-8")
    return text, int(text.split(maxsplit=3)[2])


def test_a_seed_is_a_net() -> None:
    assert seeded_recipe(5).source() == seeded_recipe(5).source()
    assert seeded_recipe(5) != seeded_recipe(6)


def test_nets_are_as_varied_as_promised() -> None:
    """Among 300 nets there is each of what the fuzzer is for."""
    recipes_ = [seeded_recipe(seed) for seed in range(300)]
    sources = [recipe.source() for recipe in recipes_]
    for what in ("dropout", "batch_norm", "layer ", "conv(", "max_pool", "embedding", "slice", "param ", "weight 2"):
        assert sum(what in source for source in sources) >= 5, what
    joins = [s for recipe in recipes_ for s in recipe.statements if s.text.startswith("concat")]
    assert sum(len(set(s.operands)) < len(s.operands) for s in joins) >= 30, "blobs joined with themselves"
    for axis in range(4):
        assert sum(f"axis={axis}" in s.text for s in joins) >= 10, f"concat on axis {axis}"
    losses = [sum(s.text.startswith("loss") for s in recipe.statements) for recipe in recipes_]
    assert sum(n > 1 for n in losses) >= 100
    read = [[name for s in recipe.statements for name in s.operands] for recipe in recipes_]
    assert sum(len(names) > len(set(names)) for names in read) >= 200, "blobs with several readers"


def test_a_failing_net_is_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted mistake in one op leaves a net of a few statements around that op."""
    reference = TanhGrad.reference
    monkeypatch.setattr(TanhGrad, "reference", lambda self, *xs: [2 * reference(self, *xs)[0]])
    check = Check()
    seed, failure = next(
        (seed, failure)
        for seed in range(200)
        if len(seeded_recipe(seed).statements) > 8 and (failure := failure_of(seeded_recipe(seed), check, seed))
    )
    assert failure.stage == "finite differences"
    small, _ = shrink(seeded_recipe(seed), failure, check, seed)
    assert len(small.statements) <= 5
    assert "tanh" in small.source()
    load(small.source(), "small.cnet")


def test_distances() -> None:
    nan, inf = float("nan"), float("inf")

    def distance(a: list[float], b: list[float]) -> float:
        return checks.distance(np.array(a), np.array(b))

    assert distance([1.0, nan, inf], [1.0, nan, inf]) == 0
    assert distance([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert distance([nan, 2.0], [1.0, 2.0]) == inf
    assert distance([-inf, 2.0], [inf, 2.0]) == inf
    assert distance([1.0], [1.0, 2.0]) == inf
