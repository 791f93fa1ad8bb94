"""The built wheel works where nothing else of the project is: it holds the grammar and the console script."""

from __future__ import annotations

import ast
import os
import re
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NET = "net f(n = 2) {\n    input x: f32[n, 3]\n    output relu(x) as y\n}\n"
SCRIPT = """
import sys
import numpy as np
import concatc
assert concatc.__file__.startswith(sys.prefix), concatc.__file__
net = concatc.compile("f.cnet")
print(net.eval(x=np.float32([[1, -1, 2], [0, 3, -4]]))["y"].tolist())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = directory.glob("concatc-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel, and sees the packages that it depends on."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)}))
    # Behind its own packages: the wheel's concatc comes first, and nothing is downloaded again.
    (own / "dependencies.pth").write_text("\n".join([*site.getsitepackages(), ""]))
    return python


def test_the_wheel_holds_the_grammar_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "concatc/frontend/cnet/grammar/cnet.lark" in names
    assert "concatc/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "examples"))]


def test_every_package_that_is_imported_is_declared() -> None:
    """The environment below sees every package of this one: what is not declared would not be missed there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w-]+", entry)[0].lower().replace("-", "_") for entry in project["dependencies"]}
    imported = set()
    for path in sorted((ROOT / "concatc").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names - {"concatc"} == declared


def test_a_net_compiles_from_the_wheel(python: Path, tmp_path: Path) -> None:
    (tmp_path / "f.cnet").write_text(NET)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["CONCATC_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [python, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]\n", done.stderr
    script = python.parent / "concatc"
    done = subprocess.run(
        [script, "check", "f.cnet"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("f.cnet: net f(n=2) is well formed"), done.stderr
