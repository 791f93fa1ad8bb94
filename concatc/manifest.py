"""The manifest of a written module: what it holds, for whom, and the hash of every file.

DIR/__init__.py      import DIR; net = DIR.load()
DIR/manifest.json    version, dims, the CPU or the devices that it is for, a hash of every file
DIR/train/           to run:   net.json (`runtime/runnable.py`), step.jsonl (`targets/cpu/step_text.py`), code0.o, ..
                     for other batch sizes: sizes.json (`batch_sizes/data.py`)
                     to read:  graph.mlir, split.mlir, joint.mlir, .., loops.mlir, kernels.py
DIR/infer/           the same for inference

Of the target `cuda` step.jsonl is of `targets/cuda/launch_text.py`, kernels.py is what the emulator runs, and code is a
file a kernel and architecture: code0.sm_80.cubin, ..  Optimizers' kernels (`written_cuda.py`) are in

DIR/update/          updates.json, code0.sm_80.cubin, ..
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import reason
from concatc.ir.levels import LEVELS
from concatc.runtime.source import PHASES, Dim

FORMAT = 8  # another one where rows of tables, records of calls, symbols of code or other sizes change
MANIFEST, INIT = "manifest.json", "__init__.py"
NET, STEP, SIZES, KERNELS = "net.json", "step.jsonl", "sizes.json", "kernels.py"
UPDATE, UPDATES = "update", "updates.json"  # of the target cuda
TARGETS = ("cpu", "cuda")
MAX_MANIFEST_BYTES = 1 << 20
_ARCH = re.compile(r"sm_\d{2,3}a?")
WRITE_AGAIN = "remove it and write it again: `concatc compile NET -o DIR`"


@dataclass(frozen=True)
class Manifest:
    """``objects`` is the number of object files of each phase, ``files`` the sha256 of each file, in hex.

    Of the target ``cuda`` ``objects`` are kernels, those of optimizers as ``update``, each of which is there for all
    ``arches``; then nothing is for a CPU.
    """

    format: int
    concatc: str
    net: str
    source: str
    dims: dict[str, Dim]
    dtype: str
    target: str
    objects: dict[str, int]
    cpu: dict[str, str]
    arches: list[str]
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
    return counts and "train" in value and set(value) <= {*PHASES, UPDATE}


def _is_cpu(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"name", "features"} and all(map(_is_text, value.values()))


def _is_arches(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and all(map(_ARCH.fullmatch, value))


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
    "target": (lambda value: value in TARGETS, "cpu or cuda"),
    "objects": (_is_objects, "a number a phase"),
    "cpu": (_is_cpu, "the name and the features of a CPU"),
    "arches": (_is_arches, "a list of architectures"),
    "files": (_is_files, "a hash for each file inside the module"),
}


def run_files(phase: str, objects: int, arches: Sequence[str] = ()) -> list[str]:
    """The files that a phase with so many object files, or kernels for architectures, needs to run."""
    if phase == UPDATE:
        data = [UPDATES]
    else:
        data = [NET, STEP, KERNELS] if arches else [NET, STEP]
    return [f"{phase}/{name}" for name in (*data, *object_files(objects, arches))]


def object_files(objects: int, arches: Sequence[str] = ()) -> list[str]:
    """The files of object code, of device code where there are architectures."""
    if not arches:
        return [f"code{k}.o" for k in range(objects)]
    return [f"code{k}.{arch}.cubin" for arch in arches for k in range(objects)]


def read_files(phase: str) -> list[str]:
    """The files of a phase that running it at its dims does not read."""
    return [] if phase == UPDATE else [f"{phase}/{name}" for name in (SIZES, *map(level_file, LEVELS), KERNELS)]


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
    if not wrong and (data["target"] == "cuda") != bool(data["arches"]):
        wrong = ["`arches` are those of the target cuda"]
    if wrong:
        raise UsageError(Diagnostic(f"{path} is damaged: {', '.join(wrong)}", help=WRITE_AGAIN))
    return Manifest(FORMAT, **{key: data[key] for key in SHAPE})
