"""Device code for the machine's own device: from the cache, or compiled.

    source of all kernels  --Numba-CUDA, NVVM-->  PTX  --ptxas-->  cubins, one a kernel

Without ptxas the PTX itself is handed to the driver, which compiles it when it is loaded.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from concatc.diagnostics import UsageError
from concatc.stages import stage
from concatc.targets.cache import Cache, default_directory, digest
from concatc.targets.cuda import ptx
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.launches import GpuModule

# What the bytes depend on besides the source.
COMPILERS = ("numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc", "numba", "llvmlite")


def device_code(module: GpuModule, arch: Arch) -> dict[str, bytes]:
    """A cubin a kernel, or PTX; raises :class:`UsageError` where the extra ``cuda`` is needed and missing."""
    cache = Cache(default_directory())
    blocks = ptx.largest_blocks(module.launches)
    said = (module.source, repr(module.signatures), repr(blocks), str(arch), _generator())
    key = digest("device code", *said, *map(_version, COMPILERS), "cubin" if _has_ptxas() else "ptx")
    held = cache.load(key)
    if held is not None:
        return {name: b64decode(code) for name, code in json.loads(held).items()}
    with stage("emit", f"compiling {len(module.signatures)} device kernels for {arch} .."):
        made = _compiled(module, arch)
    cache.store(key, json.dumps({name: b64encode(code).decode() for name, code in made.items()}).encode())
    return made


def cubins_of(module: GpuModule, arch: Arch) -> dict[str, bytes]:
    """A cubin a kernel, in the order of the signatures: code that needs no compiler any more.

    Raises :class:`UsageError` where the extra ``cuda`` or ptxas is missing.
    """
    ptx.require_compiler()
    ptx.ptxas()
    made = device_code(module, arch)
    return {kernel: made[kernel] for kernel in module.signatures}


def _compiled(module: GpuModule, arch: Arch) -> dict[str, bytes]:
    texts = ptx.ptx_of(module, arch)
    if not _has_ptxas():
        return {name: text.encode() + b"\0" for name, text in texts.items()}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # each waits for a process
        cubins = pool.map(lambda text: ptx.cubin_of(text, arch)[0], texts.values())
        return dict(zip(texts, cubins, strict=True))


def _has_ptxas() -> bool:
    try:
        ptx.ptxas()
    except UsageError:
        return False
    return True


@functools.cache
def _generator() -> str:
    """The compiler's own text: what kernels call is written there."""
    return digest(*(path.read_text(encoding="utf-8") for path in sorted(Path(ptx.__file__).parent.glob("*.py"))))


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} {shutil.which('ptxas')}"
