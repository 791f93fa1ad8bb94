"""Other tools read every level: xDSL, and MLIR itself where jaxlib is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from concatc.compiler import Options, compile_net
from concatc.ir.levels import LEVELS
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, PLAIN, print_module
from concatc.passes.dumps import READING
from tests.std_module import every_op

pytestmark = pytest.mark.peers

EXAMPLES = Path(__file__).parent.parent / "examples"
NETS = {
    "thread": ("thread.cnet", None),
    "twice": ("self_concat.cnet", "twice"),
    "joined": ("two_losses.cnet", "joined"),
    "separate": ("two_losses.cnet", "separate"),
    **{path.stem: (f"nets/{path.name}", None) for path in sorted((EXAMPLES / "nets").glob("*.cnet"))},
}


@cache
def xdsl_reader() -> Callable[[str], Any]:
    pytest.importorskip("xdsl", reason="xDSL is not installed (the extra `peers`)")
    from xdsl.context import Context
    from xdsl.parser import Parser
    from xdsl.universe import Universe

    def read(text: str) -> Any:
        context = Context(allow_unregistered=True)
        for name, factory in Universe.get_multiverse().all_dialects.items():
            context.register_dialect(name, factory)
        module = Parser(context, text).parse_module()
        module.verify()
        return module

    return read


@cache
def mlir_reader() -> Callable[[str], Any]:
    ir = pytest.importorskip("jaxlib.mlir.ir", reason="jaxlib is not installed (the extra `peers`)")
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext as extension
    from jaxlib.mlir.dialects import arith, func, memref, scf  # noqa: F401  (importing registers them)

    def read(text: str) -> str:
        with ir.Context() as context:
            registry = ir.DialectRegistry()
            extension.register_dialects(registry)
            context.append_dialect_registry(registry)
            context.load_all_available_dialects()
            context.allow_unregistered_dialects = True
            module = ir.Module.parse(text)
            assert module.operation.verify()
            return str(module)

    return read


READERS = {"xdsl": xdsl_reader, "mlir": mlir_reader}


@cache
def dump(net: str, level: str, style: str) -> str:
    file, name = NETS[net]
    path = EXAMPLES / file
    compilation = compile_net(path.read_text(encoding="utf-8"), str(path), Options(net=name))
    return compilation.phase("train").dump(level, {"reading": READING, "machine": MACHINE}[style])


@pytest.mark.parametrize("tool", READERS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("net", NETS)
def test_every_level_of_every_example(tool: str, net: str, level: str) -> None:
    READERS[tool]()(dump(net, level, "reading"))


@pytest.mark.parametrize("tool", READERS)
@pytest.mark.parametrize("level", LEVELS)
def test_machine_form(tool: str, level: str) -> None:
    READERS[tool]()(dump("thread", level, "machine"))


@pytest.mark.parametrize("tool", READERS)
def test_every_operation_of_mlir(tool: str) -> None:
    READERS[tool]()(print_module(parse_module(every_op()), PLAIN))


def test_what_mlir_prints_is_read() -> None:
    """Our text -> MLIR -> its text -> concatc: the same operations."""
    ours = parse_module(every_op())
    theirs = parse_module(mlir_reader()(print_module(ours, PLAIN)))
    assert [op.name for op in theirs.walk()] == [op.name for op in ours.walk()]
    assert [[str(r.type) for r in op.results] for op in theirs.walk()] == [
        [str(r.type) for r in op.results] for op in ours.walk()
    ]


def test_what_xdsl_prints_is_read() -> None:
    ours = parse_module(every_op())
    theirs = parse_module(str(xdsl_reader()(print_module(ours, PLAIN))))
    assert [op.name for op in theirs.walk()] == [op.name for op in ours.walk()]
