"""A look at a net at very large batches by another process, beside the one that compiles the net.

    {"text": .., "options": .., "phase": "train", "here": {"n": 64}, ..}   ->   {"decisions": .., "samples": [..]}

It takes as long as the passes, the plan and the loops of the net itself and needs nothing of them, so it begins when
they do.  What comes out is what `scaling.py` finds where there is no other process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from concatc.batch_sizes.sample_data import data_of, from_data
from concatc.batch_sizes.scaling import LookedAt, Samples, at_large, samples_of
from concatc.frontend.source import SourceFiles
from concatc.options import Options
from concatc.runtime.source import Phase

# A process takes half a second to be ready for it: smaller nets are looked at sooner here.
LEAST_OPS = 100


def recipe_of(
    text: str, files: SourceFiles, options: Options, phase: Phase, here: Mapping[str, int]
) -> dict[str, object]:
    """What :func:`followed` reads: a net with all that it imports, and the batch sizes that it has here."""
    told = {"text": text, "filename": files.filename, "imports": files.texts, "options": asdict(options)}
    return {**told, "phase": phase, "here": dict(here)}


def followed(
    recipe: Mapping[str, Any], compiled: Callable[[str, str, Options, SourceFiles], LookedAt]
) -> dict[str, object]:
    """What the net says at large batches, as data.  Raises what ``compiled`` raises."""
    chosen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe["options"].items()}
    options = Options(**chosen)
    files = SourceFiles(recipe["filename"], recipe["imports"])

    def look_at(dims: Mapping[str, int]) -> LookedAt:
        at = replace(options, dims={**options.dims, **dims})
        return compiled(recipe["text"], recipe["filename"], at, files)

    decisions, samples = samples_of(recipe["phase"], at_large(recipe["here"], look_at))
    return {"decisions": decisions, "samples": data_of(samples)}


def found_in(answer: bytes | None) -> tuple[str, Samples] | None:
    """What :func:`followed` gave, as JSON; None where no process gave it."""
    if answer is None:
        return None
    data = json.loads(answer)
    return data["decisions"], from_data(data["samples"])
