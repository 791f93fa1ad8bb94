"""Load a written module, run three training steps, and say what that took; for a process of its own.

python -m benchmarks.fresh DIR          one thread; prints one line of JSON

``load_s`` and ``load_cpu_s`` go from before the import of concatc (and NumPy, and llvmlite) to the loaded module.
``peak_bytes`` is the most that was resident since the process began (``VmHWM``): interpreter, imports, code,
parameters, gradients, inputs, activations, scratch.
"""

from __future__ import annotations

import json
import sys
import time

start, start_cpu = time.perf_counter(), time.process_time()

import concatc  # noqa: E402

STEPS = 3


def process_bytes(field: str) -> int:
    """A field of the process's status."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123  pathlib takes memory
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Measure and print."""
    net = concatc.load(sys.argv[1], threads=1)
    elapsed, elapsed_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    modules = [name for name in ("lark", "numba", "safetensors", "click") if name in sys.modules]

    import numpy as np

    net.init(seed=0)
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(spec.type.shape, np.float32) for name, spec in net.signature.inputs.items()}
    losses = [net.train_step(inputs)["loss"] for _ in range(STEPS)]
    print(
        json.dumps(
            {
                "load_s": elapsed,
                "load_cpu_s": elapsed_cpu,
                "peak_bytes": process_bytes("VmHWM"),
                "loss": losses[-1],
                "imported": modules,
            }
        )
    )


if __name__ == "__main__":
    main()
