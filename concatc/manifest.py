"""The manifest of a written module: what it holds, for whom, and the hash of every file.

DIR/__init__.py      import DIR; net = DIR.load()
DIR/manifest.json    version, dims, the CPU that it is for, a hash of every file
DIR/train/           to run:   net.json (`runtime/runnable.py`), step.jsonl (`targets/cpu/step_text.py`), code0.o, ..
                     for other batch sizes: sizes.json (`batch_sizes/data.py`)
                     to read:  graph.mlir, split.mlir, joint.mlir, .., loops.mlir, kernels.py
DIR/infer/           the same for inference
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import reason
from concatc.ir.levels import LEVELS
from concatc.runtime.source import PHASES, Dim

FORMAT = 7  # another one where rows of tables, records of calls, symbols of code or other sizes change
MANIFEST, INIT = "manifest.json", "__init__.py"
NET, STEP, SIZES, KERNELS = "net.json", "step.jsonl", "sizes.json", "kernels.py"
MAX_MANIFEST_BYTES = 1 << 20
WRITE_AGAIN = "remove it and write it again: `concatc compile NET -o DIR`"


@dataclass(frozen=True)
class Manifest:
    """``objects`` is the number of object files of each phase, ``files`` the sha256 of each file, in hex."""

    format: int
    concatc: str
    net: str
    source: str
    dims: dict[str, Dim]
    dtype: str
    objects: dict[str, int]
    cpu: dict[str, str]
    files: dict[str, str]

    def text(self) -> bytes:
        """As it stands in the file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dims(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, int | float | str) for v in value.values())


def _is_objects(value: Any) -> bool:
    counts = isinstance(value, dict) and all(type(n) is int and 0 <= n < 1 << 20 for n in value.values())
    return counts and "train" in value and set(value) <= set(PHASES)


def _is_cpu(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "features"} and all(map(_is_text, value.values()))


def _is_files(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values())) and all(map(_is_inside, value))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return "\0" not in name and not path.is_absolute() and ".." not in path.parts


SHAPE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "concatc": (_is_text, "a version"),
    "net": (_is_text, "a name"),
    "source": (_is_text, "a file name"),
    "dims": (_is_dims, "a value a dim"),
    "dtype": (lambda value: value in ("f32", "f64"), "f32 or f64"),
    "objects": (_is_objects, "a number a phase"),
    "cpu": (_is_cpu, "the name and the features of a CPU"),
    "files": (_is_files, "a hash for each file inside the module"),
}


def run_files(phase: str, objects: int) -> list[str]:
    """The files that a phase with so many object files needs to run."""
    return [f"{phase}/{name}" for name in (NET, STEP, *(f"code{k}.o" for k in range(objects)))]


def read_files(phase: str) -> list[str]:
    """The files of a phase that running it at its dims does not read."""
    return [f"{phase}/{name}" for name in (SIZES, *map(level_file, LEVELS), KERNELS)]


def level_file(level: str) -> str:
    """The file of a level."""
    return f"{level}.mlir"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a written module, whole and of this format.  Raises :class:`UsageError` where it is not."""
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise UsageError(f"{path} is too large to be a manifest")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        help = (
            "concatc.compile takes nets and dumps" if directory.is_file() else "`concatc compile NET -o DIR` writes one"
        )
        message = f"{directory} is no written module: {MANIFEST}: {reason(path, error)}"
        raise UsageError(Diagnostic(message, help=help)) from None
    except (ValueError, RecursionError):
        raise UsageError(Diagnostic(f"{path} is damaged: it is no JSON", help=WRITE_AGAIN)) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(Diagnostic(f"{directory} is not in format {FORMAT}", help=WRITE_AGAIN))
    wrong = [
        f"`{key}` is not {what}" if key in data else f"`{key}` is missing"
        for key, (is_well_formed, what) in SHAPE.items()
        if key not in data or not is_well_formed(data[key])
    ]
    if wrong:
        raise UsageError(Diagnostic(f"{path} is damaged: {', '.join(wrong)}", help=WRITE_AGAIN))
    return Manifest(FORMAT, **{key: data[key] for key in SHAPE})
