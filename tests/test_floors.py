"""A file imports only from floors below its own, or from its own package (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import concatc

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "concatc"

# The longest prefix of a module's name decides; what stands further right on a floor is a fraction higher.
FLOORS: dict[str, float] = {
    "concatc.diagnostics": 0,
    "concatc.version": 0,
    "concatc.sizes": 0.5,
    "concatc.files": 0.5,
    "concatc.stages": 0,
    "concatc.collector": 0,
    "concatc.ir": 1,
    "concatc.loops": 2,
    "concatc.op_attributes": 3,
    "concatc.initial_values": 3,
    "concatc.loss_weights": 3,
    "concatc.op": 3.2,
    "concatc.ops": 3.5,
    "concatc.frontend": 4,
    "concatc.passes": 4,
    "concatc.inspect": 4.5,
    "concatc.targets": 4,  # what a target is given and returns; the targets themselves stand one floor higher
    "concatc.targets.reference": 5,
    "concatc.targets.cpu": 5,
    "concatc.targets.cuda": 5,
    "concatc.runtime": 5,
    "concatc.plan_trial": 5.5,
    "concatc.batch_sizes": 5.75,
    "concatc.options": 5.5,
    "concatc.lowering": 5.9,
    "concatc.compiler": 6,
    "concatc.net_cache": 6,
    "concatc.cached_net": 6.2,
    "concatc.opening": 6.3,
    "concatc.manifest": 6,
    "concatc.artifact": 6.5,
    "concatc.written": 6.5,
    "concatc.written_files": 6.2,
    "concatc.written_cpu": 6.3,
    "concatc.written_cuda": 6.3,
    "concatc.edited": 6.5,
    "concatc": 7,
    "concatc.cli": 7,
    "concatc.__main__": 7,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_and_package(module: str) -> tuple[float, str]:
    if module == "concatc" or not module.startswith("concatc."):
        return FLOORS["concatc"], "concatc"
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        prefix = ".".join(parts[:length])
        if prefix in FLOORS:
            return FLOORS[prefix], prefix
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS and docs/ARCHITECTURE.md")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and name of every module of ours that a file imports, also inside functions."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() or (
                    ROOT / inner.replace(".", "/")
                ).is_dir()
                found.append((node.lineno, inner if is_module else node.module))
    return [(line, name) for line, name in found if name.split(".")[0] == "concatc"]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_imports_come_from_below(path: Path) -> None:
    floor, package = floor_and_package(module_name(path))
    wrong = []
    for line, name in imports(path):
        below, other = floor_and_package(name)
        if other != package and below >= floor and floor < FLOORS["concatc"]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: floor {floor} imports {name} of floor {below}")
    assert not wrong, "\n".join(wrong)


def test_every_floor_is_in_use() -> None:
    names = [module_name(path) for path in FILES]
    unused = [prefix for prefix in FLOORS if not any(n == prefix or n.startswith(f"{prefix}.") for n in names)]
    assert not unused


def test_no_file_is_long() -> None:
    """Small files with one reason to change."""
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert not {name: n for name, n in lengths.items() if n > 650}


def test_the_version_is_the_one_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert concatc.__version__ == project["version"]
