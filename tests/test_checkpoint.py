"""Weights in safetensors files: round trips, errors that list everything, nothing half done."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

import concatc

NET = """
net f(n = 4, size = 3) {
    input x: f32[n, 5]
    y = x |> linear(size) @one |> batch_norm @bn |> linear(2) @two
    loss mean(y) as m
    output y
}
"""


def compiled(**dims: int) -> concatc.CompiledModule:
    net = concatc.compile_source(NET, target="reference", dims=dims)
    net.init(seed=1)
    return net


def error_of(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(concatc.UsageError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return str(caught.value)


def test_round_trip_with_states_and_slots(tmp_path: Path) -> None:
    net, optimizer = compiled(), concatc.Adam(0.01)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    for _ in range(3):
        net.train_step(x=x, optimizer=optimizer)
    net.save(tmp_path / "f.safetensors", optimizer=optimizer)
    other, restored = compiled(), concatc.Adam(0.01)
    report = other.load(tmp_path / "f.safetensors", optimizer=restored)
    assert report.missing == () and report.unexpected == ()
    for name, value in {**net.params, **net.states}.items():
        assert np.array_equal({**other.params, **other.states}[name], value), name
    net.train_step(x=x, optimizer=optimizer)
    other.train_step(x=x, optimizer=restored)
    assert all(np.array_equal(other.params[name], p) for name, p in net.params.items())
    compiled().load(tmp_path / "f.safetensors")  # slots in the file are not asked for


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    net = compiled()
    net.save(tmp_path / "f.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"], "nothing is left beside"
    tensors = load_file(tmp_path / "f.safetensors")
    assert set(tensors) == {*net.params, *net.states}
    assert np.array_equal(tensors["one.weight"], net.params["one.weight"])


def test_everything_that_does_not_fit_is_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    net = compiled()
    tensors = {name: np.ones_like(value) for name, value in {**net.params, **net.states}.items()}
    tensors["one.wieght"] = tensors.pop("one.weight")
    tensors["two.weight"] = np.ones((2, 4), np.float32)
    tensors["two.bias"] = np.ones(2, np.int64)
    path = tmp_path / "g.safetensors"
    save_file(tensors, path)
    before = {name: p.copy() for name, p in net.params.items()}
    assert error_of(net.load, path) == (
        f"error: missing: {path} has no tensor `one.weight`\n"
        "help: did you mean `one.wieght`?\n"
        "error: unexpected: the net has nothing named `one.wieght`\n"
        f"error: `two.bias` holds I64 in {path}, but float32 in the net\n"
        f"error: `two.weight` has shape [2, 4] in {path}, but [2, 3] in the net"
    )
    assert all(np.array_equal(before[name], p) for name, p in net.params.items())


def test_rename_and_partial_loads(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    net = compiled()
    path = tmp_path / "old.safetensors"
    save_file({"first.w": np.full((3, 5), 2, np.float32), "extra": np.zeros(1, np.float32)}, path)
    report = net.load(path, rename={"first.w": "one.weight"}, strict=False)
    assert np.array_equal(net.params["one.weight"], np.full((3, 5), 2, np.float32))
    assert report.unexpected == ("extra",) and "one.bias" in report.missing
    text = error_of(net.load, path, rename={"first": "one.weight", "extra": "one.wait"}, strict=False)
    assert "has no tensor `first` to rename" in text
    assert "nothing named `one.wait` to rename `extra` to" in text
    assert "two tensors" in error_of(net.load, path, rename={"first.w": "one.bias", "extra": "one.bias"}, strict=False)


def test_double_precision_reads_single(tmp_path: Path) -> None:
    net = compiled()
    net.save(tmp_path / "f.safetensors")
    wide = concatc.compile_source(NET, target="reference", dtype="f64")
    wide.load(tmp_path / "f.safetensors")
    assert np.array_equal(wide.params["one.weight"], net.params["one.weight"])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not tensors",
        pickle.dumps(Evil()),
        struct.pack("<Q", 1 << 62) + b"{}",  # a header of 4 EiB
        struct.pack("<Q", 100) + b"{}",
        (h := json.dumps({"one.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode())
        and struct.pack("<Q", len(h)) + h,
    ],
    ids=["empty", "text", "pickle", "huge header", "short", "huge tensor"],
)
def test_other_files_are_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert "is no safetensors file" in error_of(compiled().load, path)
    assert not (tmp_path / "pwned").exists()


def test_paths_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    net = compiled()
    assert "cannot read" in error_of(net.load, tmp_path / "none.safetensors")
    assert "cannot read" in error_of(net.load, tmp_path)
    (tmp_path / "file").touch()
    assert "cannot write" in error_of(net.save, tmp_path / "file" / "f.safetensors")


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    net = compiled()
    for mask in (0o077, 0o002):
        old = os.umask(mask)
        try:
            net.save(tmp_path / f"{mask}.safetensors")
        finally:
            os.umask(old)
        assert (tmp_path / f"{mask}.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "steps, message",
    [
        (np.array(3), r"`optimizer.steps` is I64 \[\]"),
        (np.zeros(0, np.int64), r"`optimizer.steps` is I64 \[0\]"),
        (np.array([2.5]), r"`optimizer.steps` is F64 \[1\]"),
        (np.array([-1]), "`optimizer.steps` is -1"),
        (None, "has no tensor `optimizer.steps`"),
    ],
    ids=["scalar", "empty", "float", "negative", "missing"],
)
def test_wrong_counts_of_steps_change_nothing(steps: np.ndarray | None, message: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    net, optimizer = compiled(), concatc.Adam(0.01)
    net.train_step(x=np.ones((4, 5), np.float32), optimizer=optimizer)
    path = tmp_path / "f.safetensors"
    net.save(path, optimizer=optimizer)
    tensors = load_file(path)
    del tensors["optimizer.steps"]
    save_file(tensors if steps is None else {**tensors, "optimizer.steps": steps}, path)
    other, restored = compiled(), concatc.Adam(0.01)
    other.init(seed=2)
    before = {name: p.copy() for name, p in other.params.items()}
    with pytest.raises(concatc.UsageError, match=message):
        other.load(path, optimizer=restored)
    assert all(np.array_equal(before[name], p) for name, p in other.params.items())
    (state,) = other._optimizers.values()
    assert state.steps == 0 and not state.base.any()
    if steps is None:
        assert other.load(path, optimizer=restored, strict=False).missing == ("optimizer.steps",)


def test_weights_of_another_net_are_summed_up(tmp_path: Path) -> None:
    layers = "\n".join(f"    x = linear(x, 3) @{{0}}{k}" for k in range(9))
    source = f"net f(n = 2) {{{{\n    input x: f32[n, 3]\n{layers}\n    output x as y\n}}}}\n"
    one, other = (concatc.compile_source(source.format(name), target="reference") for name in ("a", "b"))
    one.save(tmp_path / "one.safetensors")
    path = tmp_path / "one.safetensors"
    assert error_of(other.load, path) == (
        f"error: {path} is of another net: it has none of the 18 tensors that this net loads\n"
        "note: it holds `a0.bias`, `a0.weight`, `a1.bias` and 15 more\n"
        "note: the net loads `b0.weight`, `b0.bias`, `b1.weight` and 15 more\n"
        "help: load() takes other names by `rename={..}`, and what fits by `strict=False`"
    )
    text = error_of(other.load, path, rename={"a0.weight": "b0.weight"})
    assert text.count("error: missing: ") == 9 and f"error: missing: {path} has none of 9 more tensors" in text
    assert text.count("error: unexpected: ") == 9 and f"error: unexpected: 9 more tensors of {path}" in text
