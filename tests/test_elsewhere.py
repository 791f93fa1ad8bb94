"""What people write in Python who come from other systems is answered with what does it here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.runtime.elsewhere import HINTS

NET = "net f(n = 2) { input x: f32[n, 3]; output linear(x, 2) as y }"


@pytest.fixture(scope="module")
def net() -> concatc.CompiledModule:
    return concatc.compile_source(NET, target="reference")


def test_a_net_that_is_called_says_what_runs_it(net: concatc.CompiledModule) -> None:
    with pytest.raises(TypeError, match=r"a net is not called: `net\.forward\(x=x\)`"):
        net(np.ones((2, 3)))  # type: ignore[operator]


@pytest.mark.parametrize("name", sorted(HINTS))
def test_attributes_of_other_systems_have_a_hint(net: concatc.CompiledModule, name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(net, name)
    assert str(caught.value) == f"'CompiledModule' object has no attribute '{name}'; {HINTS[name]}"


def test_other_names_are_told_as_python_tells_them(net: concatc.CompiledModule) -> None:
    assert not hasattr(net, "__array__")
    with pytest.raises(AttributeError, match=r"object has no attribute 'quux'$"):
        net.quux  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_says_where_nets_come_from() -> None:
    for name, hint in (("nn", "nets are texts: concatc.compile reads a file"), ("compil", "did you mean `compile`")):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'; {hint}"):
            getattr(concatc, name)
    with pytest.raises(AttributeError, match=r"has no attribute '__wrapped__'$"):
        concatc.__wrapped__  # noqa: B018


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: concatc.compile_source(NET, target="gpu"), r"no target `gpu`; .*\nhelp: did you mean `cuda`\?"),
    (lambda path: concatc.compile_source(NET, dtype="f16"), r"no dtype `f16`; .*\nhelp: there is no half precision"),
    (lambda path: concatc.compile_source(NET, dtype=np.float32), r"no dtype `float32`; .*\nhelp: did you mean `f32`\?"),  # type: ignore[arg-type]
    (lambda path: concatc.compile_source(NET, dtype="int"), r"no dtype `int`; there are `f32`, `f64`$"),
    (lambda path: concatc.compile_source(NET, target="reference").load(path), r"cannot read .*: it is a directory"),
    (lambda path: concatc.load(Path(__file__)), r"is no written module: manifest\.json: .* is a file, not a folder"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_meant_is_said(tmp_path: Path, call: Callable[[Path], object], message: str) -> None:
    with pytest.raises(concatc.UsageError, match=message):
        call(tmp_path)
