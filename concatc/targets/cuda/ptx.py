"""From generated source to PTX, and from PTX to device code: without a GPU, without a driver.

    source  --Numba-CUDA, NVVM-->  PTX, one text a kernel and architecture  --ptxas-->  cubin

Numba's CUDA compiler and NVIDIA's libraries come with the extra ``cuda``.  They are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from concatc.diagnostics import Diagnostic, UsageError
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.launches import GpuLaunch, GpuModule

EXTRA = "pip install 'concatc[cuda]'"
_NUMBA_TYPES = {"f32": "float32", "f64": "float64", "i1": "boolean", "i8": "int8", "i32": "int32", "i64": "int64"}
_TENSOR_CORES = 8  # the first architectures whose tensor cores know tf32
_THREADS = 256  # of a multiprocessor at least: up to 255 registers each
_SECONDS = 120  # what ptxas may take for one kernel


def require_compiler() -> Any:
    """Numba's CUDA compiler; raises :class:`UsageError` where the extra is missing."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise UsageError(f"PTX is made by numba-cuda, which is not installed: {EXTRA}")
    if importlib.util.find_spec("_numba_cuda_redirector") is not None:
        importlib.import_module(
            "_numba_cuda_redirector"
        )  # `numba.cuda` is then numba-cuda, also where no .pth file ran
    return importlib.import_module("numba.cuda")


def ptx_of(module: GpuModule, arch: Arch) -> dict[str, str]:
    """The PTX of each kernel of a module, by its name, which is also the name of its entry.

    Raises :class:`UsageError` where the architecture lacks what the kernels use.
    """
    if arch.major < _TENSOR_CORES and "mma(" in module.source:
        raise UsageError(Diagnostic(f"{arch} has no tensor cores for tf32", help="--precision exact uses none"))
    cuda = require_compiler()
    numba = importlib.import_module("numba")
    with tempfile.TemporaryDirectory() as directory:
        # Numba reads the source of what it compiles from a file.
        path = Path(directory) / "kernels.py"
        path.write_text(module.source, encoding="utf-8")
        namespace: dict[str, Any] = {"__name__": "concatc_kernels", "__file__": str(path)}
        exec(compile(module.source, str(path), "exec"), namespace)
        blocks = largest_blocks(module.launches)
        made: dict[str, str] = {}
        for name, parameters in module.signatures.items():
            types = [_numba_type(numba, parameter) for parameter in parameters]
            text, _ = cuda.compile(
                namespace[name],
                numba.types.void(*types),
                cc=(arch.major, arch.minor, arch.suffix) if arch.suffix else (arch.major, arch.minor),
                device=False,
                abi="numba",
                output="ptx",
                launch_bounds=_bounds(blocks.get(name, 256)),
            )
            made[name] = _with_entry(text if isinstance(text, str) else text.decode(), name)
    return made


def largest_blocks(launches: Iterable[GpuLaunch]) -> dict[str, int]:
    """The threads of the largest block that each kernel is launched with: its code must fit that many."""
    found: dict[str, int] = {}
    for launch in launches:
        found[launch.kernel] = max(launch.block, found.get(launch.kernel, 0))
    return found


def _bounds(threads: int) -> tuple[int, int]:
    """The threads of a block, and how many blocks a multiprocessor is to hold: registers are what is left for each."""
    return threads, max(1, _THREADS // threads)


def _numba_type(numba: Any, parameter: str) -> Any:
    if parameter.startswith("*"):
        return numba.types.CPointer(_numba_type(numba, parameter[1:]))
    return getattr(numba.types, _NUMBA_TYPES[parameter])


def _with_entry(text: str, name: str) -> str:
    """The PTX with its entry called by the kernel's name, and without what differs from one run to the next."""
    entry = re.search(r"\.entry\s+(\w+)", text)
    assert entry is not None, "PTX without an entry"
    # Numba counts shared arrays through a process.
    arrays = list(dict.fromkeys(re.findall(r"_cudapy_smem_\d+", text)))
    text = re.sub(r"_cudapy_smem_\d+", lambda found: f"shared_{arrays.index(found[0])}", text)
    lines = text.rstrip("\0\n").replace(entry[1], name).split("\n")
    return "\n".join(line for line in lines if "NumbaEnv" not in line) + "\n"


# -- device code -------------------------------------------------------------------------------------------------------
def cubin_of(ptx: str, arch: Arch) -> tuple[bytes, str]:
    """Device code of one kernel's PTX, and what ptxas says of registers, spills and memory."""
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "kernel.ptx", Path(directory) / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        command = [ptxas(), f"-arch={arch}", "-v", "--warn-on-spills", str(source), "-o", str(target)]
        done = _run(command)
        if done.returncode:
            raise UsageError(f"ptxas refuses a kernel for {arch}: {done.stderr.strip()}")
        return target.read_bytes(), done.stderr


def sass_of(cubin: bytes) -> str:
    """The instructions of device code."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool("nvdisasm", "nvidia-cuda-nvdisasm"), str(path)]
        done = _run(command)
        if done.returncode:
            raise UsageError(f"nvdisasm refuses device code: {done.stderr.strip()}")
        return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of the toolkit on one kernel; raises :class:`UsageError` where it does not start or end."""
    name = Path(command[0]).name
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        help = "try again when the machine is less busy, or with another version of the CUDA toolkit first on the path"
        raise UsageError(Diagnostic(f"{name} took more than {_SECONDS} s for one kernel", help=help)) from None
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror or error}") from None


def ptxas() -> str:
    """The path of NVIDIA's assembler."""
    return tool("ptxas", "nvidia-cuda-nvcc")


def tool(name: str, package: str) -> str:
    """A program of the CUDA toolkit: on the path, or installed with a package; raises :class:`UsageError` for none."""
    found = shutil.which(name) or next((str(path) for path in _installed(name)), None)
    if found is None:
        raise UsageError(f"`{name}` is not here: install a CUDA toolkit or {package}")
    return found


def _installed(name: str) -> Sequence[Path]:
    roots = [Path(entry) / "nvidia" for entry in sys.path if entry]
    return [path for root in roots if root.is_dir() for path in sorted(root.glob(f"*/bin/{name}"))]


# -- what must hold of it ----------------------------------------------------------------------------------------------
def faults_of(ptx: str, wide: bool = False) -> list[str]:
    """What must not stand in a kernel's PTX: f64 (unless the net is of f64), 64-bit divisions, local memory."""
    patterns: Mapping[str, str] = {
        "64-bit integer division": r"\b(div|rem)\.[su]64\b",
        "a call": r"\bcall(\.uni)?\b",
        "local memory": r"^\s*\.local\b",
        "an atomic operation": r"\b(atom|red)\.",
    }
    if not wide:
        patterns = {**patterns, "f64": r"\.f64\b"}
    return [what for what, pattern in patterns.items() if re.search(pattern, ptx, re.MULTILINE)]


def faults_in_report(report: str) -> list[str]:
    """What must not stand in what ptxas says of a kernel: spills, a stack frame."""
    found = [f"{count} bytes of {what}" for count, what in re.findall(r"(\d+) bytes (stack frame|spill \w+)", report)]
    return [fault for fault in found if not fault.startswith("0 ")]
