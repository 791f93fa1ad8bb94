"""Nets that the cache holds: they run without being compiled, and are the same nets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc import net_cache, version
from concatc.cached_net import CachedNet
from concatc.frontend import cnet, grammar
from concatc.targets.cache import Cache, digest
from concatc.targets.cpu.workers import Workers

ROOT = Path(__file__).resolve().parent.parent
NET = """import "layers.cnet"

net small(n = 4, growth = 3) {
    input image: f32[n, 3, 6, 6]
    input label: i32[n]
    input unused: f32[n]
    h = conv(image, 4, kernel=1) @stem
    for dense in 0..2 { h = dense_layer(h, growth) @layer }
    logits = h |> batch_norm |> relu |> global_avg_pool |> flatten |> linear(5)
    loss softmax_loss(logits, label)
    output logits
}
"""
LAYERS = """block dense_layer(x, growth) {
    y = x |> batch_norm |> relu |> conv(growth, kernel=3, pad=1)
    return concat(x, y, axis=1)
}
"""


def write(folder: Path, layers: str = LAYERS) -> Path:
    folder.mkdir()
    (folder / "net.cnet").write_text(NET)
    (folder / "layers.cnet").write_text(layers)
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the object code of the net, so that compiling it takes no long time; no net."""
    made = tmp_path_factory.mktemp("objects")
    folder = write(made / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCATC_CACHE_DIR", str(made / "cache"))
        for optimizer in (concatc.SGD(lr=0.1, momentum=0.9), concatc.Adam()):
            trained(compiled(folder), optimizer)
    return made / "cache"


@pytest.fixture
def project(tmp_path: Path, objects: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a net and what it imports; a cache that keeps nets and holds none."""
    shutil.copytree(objects, tmp_path / "cache")
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CONCATC_CACHE", "nets")
    return write(tmp_path / "project")


def compiled(project: Path, **options: object) -> concatc.CompiledModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return concatc.compile(project / "net.cnet", **options)  # type: ignore[arg-type]


def data(n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    image = rng.standard_normal((n, 3, 6, 6), np.float32)
    return {"image": image, "label": np.arange(n, dtype=np.int32) % 5, "unused": np.zeros(n, np.float32)}


def trained(net: concatc.CompiledModule, optimizer: concatc.Optimizer | None = None, n: int = 4) -> list[bytes]:
    """Everything that two steps and an evaluation give."""
    net.init(seed=1)
    optimizer = optimizer or concatc.SGD(lr=0.1, momentum=0.9)
    losses = [net.train_step(data(n), optimizer=optimizer)["loss"] for _ in range(2)]
    logits = net.eval(image=data(n)["image"])["logits"]
    return [np.array(losses).tobytes(), logits.tobytes(), *(net.params[name].tobytes() for name in net.params)]


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be parsed or compiled."""

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(cnet, "load", refuse)
    monkeypatch.setattr(Workers, "submit", refuse)


@pytest.mark.parametrize("make", [lambda: concatc.SGD(lr=0.1, momentum=0.9), concatc.Adam])
def test_a_net_that_was_compiled_runs_without_a_compiler(
    project: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], concatc.Optimizer]
) -> None:
    cold = trained(compiled(project), make())
    no_compiler(monkeypatch)
    assert trained(compiled(project), make()) == cold


def test_a_fresh_process_imports_neither_parser_nor_passes_nor_numba(project: Path) -> None:
    script = (
        "import sys, numpy as np, concatc, warnings\n"
        "warnings.simplefilter('ignore')\n"
        f"net = concatc.compile({str(project / 'net.cnet')!r})\n"
        "rng = np.random.default_rng(3)\n"
        "image = rng.standard_normal((4, 3, 6, 6), np.float32)\n"
        "batch = {'image': image, 'label': np.arange(4, dtype=np.int32), 'unused': np.zeros(4, np.float32)}\n"
        "losses = net.train_step(batch, optimizer=concatc.SGD(lr=0.1))\n"
        "heavy = ('lark', 'numba', 'concatc.compiler', 'concatc.passes.fuse', 'concatc.frontend.cnet')\n"
        "print(losses['loss'].hex(), *(name for name in heavy if name in sys.modules))\n"
    )
    command = [sys.executable, "-c", script]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300) for _ in range(2)]
    first, second = (run.stdout.split() for run in runs)
    assert "concatc.passes.fuse" in first  # it was compiled there
    assert second == first[:1]


def test_what_changes_the_result_is_part_of_the_key(project: Path) -> None:
    plain = compiled(project)
    plain.init(seed=0)
    plain.forward(data())
    assert isinstance(plain._source, CachedNet)
    assert plain._source._cache.load(plain._source._files) is not None
    others = [
        compiled(project, **given)
        for given in (
            {"dims": {"growth": 5}},
            {"keep": ["logits"]},
            {"dtype": "f64"},
            {"recompute": "none"},
            {"freeze": ["stem"]},
            {"input_grads": True},
        )
    ]
    sources = [other._source for other in others]
    assert all(isinstance(source, CachedNet) and source._known is None for source in sources)
    (project / "net.cnet").write_text(NET.replace("linear(5)", "linear(6)"))
    assert compiled(project).signature.outputs["logits"].shape == (4, 6)


def test_imports_are_compared(project: Path) -> None:
    before = trained(compiled(project))
    net = compiled(project)
    (project / "layers.cnet").write_text(LAYERS.replace("relu", "tanh"))
    assert trained(compiled(project)) != before
    assert "tanh" not in net.ir("graph")
    (project / "layers.cnet").write_text(LAYERS)
    assert trained(compiled(project)) == before


def test_a_net_keeps_the_imports_that_it_was_compiled_with(project: Path) -> None:
    """What is made of it later, here or at other sizes, is of the same text, and so is what the cache keeps of it."""
    before, larger = trained(compiled(project)), trained(compiled(project), n=7)
    shutil.rmtree(os.environ["CONCATC_CACHE_DIR"])
    for _ in ("cold", "warm"):
        (project / "layers.cnet").write_text(LAYERS)
        net = compiled(project)
        (project / "layers.cnet").write_text(LAYERS.replace("relu", "tanh"))
        assert trained(net) == before
        assert trained(net, n=7) == larger
        assert trained(net.with_dims(n=7), n=7) == larger
        (project / "layers.cnet").unlink()
        other = net.with_dims(n=5)
        assert "tanh" not in other.ir("joint") + other.ir("joint", phase="infer")
    (project / "layers.cnet").write_text(LAYERS)
    assert trained(compiled(project)) == before


def test_the_same_text_elsewhere_has_its_own_imports(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files are relative to where a process stands."""
    monkeypatch.chdir(project)
    first = trained(compiled(Path()))
    monkeypatch.chdir(write(tmp_path / "other", LAYERS.replace("growth, kernel=3, pad=1", "growth, kernel=1")))
    assert trained(compiled(Path())) != first
    monkeypatch.chdir(project)
    assert trained(compiled(Path())) == first


def test_an_import_that_now_lies_outside_is_an_error_again(project: Path, tmp_path: Path) -> None:
    trained(compiled(project))
    outside = tmp_path / "outside.cnet"
    (project / "layers.cnet").rename(outside)
    (project / "layers.cnet").symlink_to(outside)
    with pytest.raises(concatc.ConcatcError, match="lies outside the project"):
        compiled(project)


def test_a_text_by_another_grammar_is_another_net(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(compiled(project))
    of_grammar = grammar.language_digest.__wrapped__
    before = of_grammar()
    monkeypatch.setattr(grammar, "grammar_bytes", lambda: b"another")
    assert of_grammar() != before == grammar.language_digest()
    monkeypatch.setattr(net_cache, "language_digest", of_grammar)
    monkeypatch.setattr(net_cache, "_compiler", net_cache._compiler.__wrapped__)
    source = compiled(project)._source
    assert isinstance(source, CachedNet) and source._known is None


def test_code_that_was_imported_before_its_file_changed_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    of_source = version.source_digest.__wrapped__
    assert of_source() == of_source() != of_source("targets/cpu")
    before = of_source()
    monkeypatch.setattr(version, "_IMPORTED", 0.0)  # so all of them changed since
    assert of_source() != before


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
def test_a_name_that_is_not_utf8_is_a_name(project: Path) -> None:
    cold = trained(compiled(project))
    named = project / os.fsdecode(b"caf\xe9.cnet")
    (project / "net.cnet").rename(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [trained(concatc.compile(named)) for _ in range(2)] == [cold] * 2


def test_where_the_cache_may_not_be_searched_it_holds_nothing(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path / ("long" * 100)), digest("key")  # the system refuses to look there
    assert not cache.holds(key) and cache.load(key) is None


def test_damaged_entries_are_made_anew(project: Path, tmp_path: Path) -> None:
    cold = trained(compiled(project))
    entries = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert {path.suffix for path in entries} == {".json", ".o", ".py"}
    for path in entries:
        path.write_bytes(path.read_bytes()[:-3] + b"}}}")
    assert trained(compiled(project)) == cold
    for path in entries:
        path.unlink()
        assert trained(compiled(project)) == cold if path.suffix == ".json" else True


def test_entries_of_another_form_are_made_anew(project: Path) -> None:
    """With the right hash: an own error, or another release under the same key."""
    cold = trained(compiled(project))
    source = compiled(project)._source
    assert isinstance(source, CachedNet)
    cache = source._cache.cache
    for path in sorted(cache.directory.rglob("*.json")):
        for wrong in ({}, [1], None):
            cache.store(path.stem, json.dumps(wrong).encode(), ".json")
        assert trained(compiled(project)) == cold


def test_levels_memory_and_code_are_made_when_they_are_asked_for(project: Path) -> None:
    cold = compiled(project)
    trained(cold)
    warm = compiled(project)
    trained(warm)
    assert isinstance(warm._source, CachedNet) and warm._source._compilation is None
    for level in ("graph", "split", "joint", "optimized", "kernels", "plan", "loops"):
        assert warm.ir(level) == cold.ir(level)
        assert warm.ir(level, phase="infer") == cold.ir(level, phase="infer")
    assert str(warm.memory) == str(cold.memory)
    assert warm.kernels == cold.kernels
    assert warm.outputs == cold.outputs
    for net in (cold, warm):
        with pytest.raises(concatc.UsageError, match="keep"):
            _ = net.blobs["h"].data


def test_other_batch_sizes_follow_from_what_the_cache_holds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = trained(compiled(project), n=7)
    warm = compiled(project)
    assert isinstance(warm._source, CachedNet)
    monkeypatch.setattr(Workers, "submit", None)
    assert trained(warm, n=7) == cold
    assert trained(compiled(project).with_dims(n=7), n=7) == cold


def test_warnings_and_errors_are_those_of_a_compilation(project: Path) -> None:
    def warned() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trained(concatc.compile(project / "net.cnet"))
        return [str(w.message) for w in caught]

    cold = warned()
    assert len(cold) == 1 and "input `unused` is not used" in cold[0] and "^^^^^^" in cold[0]
    assert warned() == cold
    (project / "net.cnet").write_text(NET.replace("linear(5)", "linear(x)"))
    for _ in range(2):
        with pytest.raises(concatc.ConcatcError, match="`x`"):
            compiled(project)


def test_a_budget_holds_warm_as_cold(project: Path) -> None:
    for _ in range(2):
        with pytest.raises(concatc.UsageError, match="64 B"):
            compiled(project, max_memory=64)
    cold = trained(compiled(project, max_memory="1MiB"))
    warm = compiled(project, max_memory="1MiB")
    assert isinstance(warm._source, CachedNet) and warm._source._known is not None
    assert trained(warm) == cold


def test_who_wants_passes_checked_gets_them_run(project: Path) -> None:
    trained(compiled(project))
    assert not isinstance(compiled(project, verify_each=True)._source, CachedNet)


def test_a_cache_of_objects_holds_no_nets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CACHE", "objects")
    assert not isinstance(compiled(project)._source, CachedNet)


def test_without_a_cache_everything_is_compiled(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = trained(compiled(project))
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(concatc.ConcatcWarning, match="cannot be used: Not a directory"):
        assert trained(compiled(project)) == cold


def test_entries_are_for_their_owner_alone(project: Path, tmp_path: Path) -> None:
    trained(compiled(project))
    for path in (tmp_path / "cache", *(tmp_path / "cache").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 and path.stat().st_uid == os.getuid()
