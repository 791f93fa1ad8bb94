"""The object code of units: from the cache, from workers, or compiled here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from concatc.stages import stage
from concatc.targets.cache import Cache
from concatc.targets.cpu.native import object_code
from concatc.targets.cpu.units import Unit
from concatc.targets.cpu.workers import Workers


def objects_of(units: Sequence[Unit], cache: Cache, meanwhile: Callable[[], object], workers: Workers) -> list[bytes]:
    """The object code of units, each as the cache has it, or made now; ``meanwhile`` is called before that is waited
    for.
    """
    found = [cache.load(unit.key) for unit in units]
    cold = [k for k, code in enumerate(found) if code is None]
    # One unit alone is compiled here: a process would take as long to start.
    made = {}
    if workers.most and (len(cold) > 1 or workers.is_begun):
        for k in cold:
            recipe = units[k].recipe(cache)
            # Time goes with what is written out, which goes with the loops; Numba's kernels are many.
            cost = float("inf") if recipe["kind"] == "numba" else len(recipe.get("loops", ""))
            made[k] = workers.submit({**recipe, "key": units[k].key}, cost)
    meanwhile()
    for k in cold:
        with stage("LLVM"):
            code = made[k].result() if k in made else None
        if code is None:
            text = units[k].llvm_ir(cache)
            with stage("LLVM"):
                code = object_code(text, units[k].host)
        cache.store(units[k].key, code)
        found[k] = code
    return [code for code in found if code is not None]
