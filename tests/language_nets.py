"""Nets in few words, for tests of the language."""

from __future__ import annotations

from pathlib import Path

from concatc.frontend.cnet import load
from concatc.ir.core import FuncOp, Operation

ROOT = Path(__file__).parent.parent


def main(source: str, **options: object) -> FuncOp:
    return load(source, "f.cnet", **options)[0].main  # type: ignore[arg-type]


def body(statements: str, inputs: str = "input x: f32[n, 4]", head: str = "n = 2", before: str = "") -> str:
    return f"{before}\nnet f({head}) {{\n    {inputs}\n{statements}\n}}\n"


def params(source: str, **options: object) -> list[str]:
    return list(main(source, **options).arguments("param"))


def ops(function: FuncOp) -> list[str]:
    return [op.name.removeprefix("cnet.") for op in function.ops]


def op(function: FuncOp, name: str) -> Operation:
    (found,) = [op for op in function.ops if op.name == f"cnet.{name}"]
    return found
