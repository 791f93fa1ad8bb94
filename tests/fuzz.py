"""Random nets through everything: ``python -m tests.fuzz --count 20000 --seed 0 --cpu 1000 --cuda 500``.

Net ``k`` is the same for the same seed.  A net that fails is cut down to the smallest one that fails at the same stage
and written to ``--keep DIR`` (default ``tests/nets/failed``) as ``.cnet``, its failure in a comment.  What lies in
``tests/nets/found`` is run by ``tests/test_random_nets.py``.  The summary says what was done.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from concatc.op import load_all_ops_once
from tests.nets.checks import Check, NetFailure, check_net
from tests.nets.random_nets import seeded_recipe
from tests.nets.recipe import Recipe

SHRINK_SECONDS = 60
HERE = Path(__file__).parent


def failure_of(recipe: Recipe, check: Check, seed: int) -> NetFailure | None:
    """The failure of a net; None where all is well."""
    try:
        check_net(recipe.source(), check, seed)
    except NetFailure as failure:
        return failure
    return None


def shrink(recipe: Recipe, failure: NetFailure, check: Check, seed: int) -> tuple[Recipe, NetFailure]:
    """The smallest net found that fails at the same stage."""
    end = time.monotonic() + SHRINK_SECONDS
    smaller = True
    while smaller and time.monotonic() < end:
        smaller = False
        for candidate in recipe.smaller():
            if time.monotonic() > end:
                break
            if not any(s.kind == "result" for s in candidate.statements):
                continue
            found = failure_of(candidate, check, seed)
            if found is not None and found.stage == failure.stage:
                recipe, failure, smaller = candidate, found, True
                break
    return recipe, failure


def is_chosen(k: int, some: int, count: int) -> bool:
    """Whether number ``k`` is one of ``some`` of ``count``, spread evenly."""
    return k * some // count != (k + 1) * some // count


def keep(directory: Path, recipe: Recipe, failure: NetFailure, seed: int) -> Path:
    """Write a net that fails."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{failure.stage.replace(' ', '-')}-{seed}.cnet"
    message = str(failure).replace("\n", "\n# ")
    path.write_text(f"# seed {seed}\n# {message}\n{recipe.source()}", encoding="utf-8")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="how many nets")
    parser.add_argument("--seed", type=int, default=0, help="the first net's seed")
    parser.add_argument("--cpu", type=int, default=0, help="how many of them run on the cpu target too")
    parser.add_argument("--cuda", type=int, default=0, help="how many run as device kernels, on the emulator")
    parser.add_argument("--plans", action="store_true", help="no PyTorch, finite differences and round trips of text")
    parser.add_argument("--most", type=int, default=12, help="statements of a net, at most")
    parser.add_argument("--keep", type=Path, default=HERE / "nets" / "failed", help="where nets that fail are written")
    parser.add_argument("--stop", type=int, default=20, help="end after this many failures")
    options = parser.parse_args(argv)
    load_all_ops_once()
    has_torch = importlib.util.find_spec("torch") is not None
    counts: Counter[str] = Counter()
    failures: list[Path] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        for k in range(options.count):
            seed = options.seed + k
            on_cpu, on_cuda = (is_chosen(k, some, options.count) for some in (options.cpu, options.cuda))
            check = Check(torch=has_torch, cpu=Path(cache) if on_cpu else None, cuda=on_cuda, counts=counts)
            if options.plans:
                check = replace(check, torch=False, finite_differences=0, texts=())
            recipe = seeded_recipe(seed, options.most)
            failure = failure_of(recipe, check, seed)
            if failure is not None:
                small, failure = shrink(recipe, failure, replace(check, counts=Counter()), seed)
                failures.append(keep(options.keep, small, failure, seed))
                print(f"net {seed}: {failure}\n{small.source()}", flush=True)
            if (k + 1) % 1000 == 0:
                print(f"{k + 1} nets after {time.monotonic() - start:.0f} s", flush=True)
            if len(failures) >= options.stop:
                break
    elapsed = time.monotonic() - start
    print(f"{counts['nets']} nets pass, {len(failures)} fail, in {elapsed:.1f} s")
    for name, count in sorted(counts.items()):
        print(f"  {count:8}  {name}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
