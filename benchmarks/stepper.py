"""Training steps on demand, by whichever concatc is imported: what `benchmarks.against` runs once a checkout.

    PYTHONPATH=CHECKOUT python benchmarks/stepper.py net.cnet batch.npz '{"n": 16}' auto

Compiles, does one step, prints its loss; then each line on stdin is a round: steps for that many seconds, and the
answer is the seconds that a step took.  Lines are JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

import concatc


def main() -> None:
    """Serve rounds until stdin ends."""
    path, data, dims, recompute = sys.argv[1:]
    os.environ["CONCATC_NUM_THREADS"] = "1"  # an earlier commit may not know `threads=`
    with np.load(data, allow_pickle=False) as arrays:
        batch = dict(arrays)
    net = concatc.compile(path, dims=json.loads(dims), target="cpu", recompute=recompute)  # type: ignore[arg-type]
    net.init(seed=0)
    print(json.dumps({"loss": net.train_step(batch)["loss"]}), flush=True)
    for line in sys.stdin:
        seconds, start, steps = float(line), time.perf_counter(), 0
        while not steps or time.perf_counter() - start < seconds:
            net.train_step(batch)
            steps += 1
        print(json.dumps({"step_s": (time.perf_counter() - start) / steps}), flush=True)


if __name__ == "__main__":
    main()
