"""What was measured as numbers and tables: ratios of rounds, deviations, Markdown; and what it ran on."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20
PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "onnxruntime", "openvino")


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times ours their time is, round by round: median, least and greatest."""
    found = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "greatest": max(found)}


def spread(ratio: Mapping[str, float]) -> str:
    """Ratios in words."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"


def geometric_mean(numbers: Iterable[float]) -> float:
    """The n-th root of the product of n numbers."""
    return statistics.geometric_mean(numbers)


def deviation(values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """How far a system is from the float64 reference.

    Of losses and norms of gradients the largest relative difference (a norm below a millionth of the largest counts as
    that); of outputs the largest difference of an element, relative to the largest element.  Infinite where a value is
    missing or no number.
    """
    if sorted(values) != sorted(reference):
        return float("inf")
    least = 1e-6 * max((float(x) for name, x in reference.items() if name.startswith("norm/")), default=0.0)
    found = 0.0
    for name, wanted in reference.items():
        value, size = np.asarray(values[name], np.float64), float(np.max(np.abs(wanted), initial=0.0))
        if value.shape != wanted.shape or not np.all(np.isfinite(value)):
            return float("inf")
        size = max(size, least) if name.startswith("norm/") else size
        found = max(found, float(np.max(np.abs(value - wanted), initial=0.0)) / (size or 1.0))
    return found


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def machine() -> dict[str, str]:
    """What it runs on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    found = {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path | None, found: Any) -> None:
    """Replace the file in one step."""
    if path is None:
        return
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    beside.rename(path)
