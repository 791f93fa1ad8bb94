"""Weights in safetensors files: names, shapes and numbers, never code.

A file holds every parameter and state under its path; with an optimizer also ``optimizer.<slot>/<path>`` and
``optimizer.steps``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.files import replacing
from concatc.loops.memory import Array
from concatc.runtime.optimizers import OptimizerState
from concatc.runtime.store import Store

VERSION = "1"
STEPS = "optimizer.steps"
MOST_TOLD = 8  # names of a kind, one by one
DTYPES = {"F32": "float32", "F64": "float64", "I32": "int32", "I64": "int64"}


@dataclass(frozen=True)
class LoadReport:
    """What a file did not hold, and what it held that the net does not have."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def save(path: Path, net: str, store: Store, optimizer: OptimizerState | None) -> None:
    """Write a file beside ``path``, then rename it."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    _before_read(store, optimizer)
    tensors = dict(_tensors(store, optimizer))
    if optimizer is not None:
        tensors[STEPS] = np.array([optimizer.steps], np.int64)
    with replacing(path) as part:
        try:
            save_file(tensors, part, metadata={"format": "concatc", "version": VERSION, "net": net})
        except SafetensorError as error:  # a full disk is none of the OSErrors
            raise UsageError(f"cannot write {path}: {error}") from None


def load(
    path: Path, store: Store, rename: Mapping[str, str], strict: bool, optimizer: OptimizerState | None
) -> LoadReport:
    """Fill parameters, states and slots from a file; everything is checked before anything is written."""
    from safetensors import SafetensorError, safe_open

    wanted = _tensors(store, optimizer)
    try:
        with safe_open(path, framework="numpy") as file:
            names = {name: rename.get(name, name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: _shape(file.get_slice(name)) for name in names}
            report = _check(path, names, shapes, rename, wanted, strict, optimizer is not None)
            steps = None
            if optimizer is not None and STEPS in names:
                steps = int(file.get_tensor(STEPS)[0])
                if steps < 0:
                    raise UsageError(f"`{STEPS}` is {steps} in {path}, but counts steps")
            _before_read(store, optimizer)  # names that the file does not hold stay as they are
            store.before_write("params", "states")
            if optimizer is not None:
                store.memory.before_write(optimizer.base)
            for name, to in names.items():
                if to in wanted:
                    wanted[to][...] = file.get_tensor(name)
            if optimizer is not None and steps is not None:
                optimizer.steps = steps
    except OSError as error:
        # The errors of safetensors have no strerror, and name the file once more.
        why = "it is a directory" if path.is_dir() else error.strerror or str(error).removesuffix(f": {path}")
        raise UsageError(f"cannot read {path}: {why}") from None
    except SafetensorError as error:
        raise UsageError(f"{path} is no safetensors file: {error}") from None
    return report


def _before_read(store: Store, optimizer: OptimizerState | None) -> None:
    store.before_read("params", "states")
    if optimizer is not None:
        store.memory.before_read(optimizer.base)


def _tensors(store: Store, optimizer: OptimizerState | None) -> dict[str, Array]:
    tensors: dict[str, Array] = {**store.params, **store.states}
    if optimizer is not None:
        for slot, views in optimizer.slots.items():
            tensors.update((f"optimizer.{slot}/{name}", view) for name, view in views.items())
    return tensors


def _shape(entry: object) -> tuple[list[int], str]:
    return list(entry.get_shape()), str(entry.get_dtype())  # type: ignore[attr-defined]


def _check(
    path: Path,
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[list[int], str]],
    rename: Mapping[str, str],
    wanted: Mapping[str, Array],
    strict: bool,
    with_steps: bool,
) -> LoadReport:
    problems = [
        Diagnostic(f"{path} has no tensor `{old}` to rename", help=did_you_mean(old, names))
        for old in rename
        if old not in names
    ]
    problems += [
        Diagnostic(f"the net has nothing named `{to}` to rename `{old}` to", help=did_you_mean(to, wanted))
        for old, to in rename.items()
        if to not in wanted
    ]
    targets = list(names.values())
    twice = sorted({to for to in targets if targets.count(to) > 1}) if len(set(targets)) < len(targets) else []
    problems += [Diagnostic(f"two tensors of {path} are renamed to `{to}`") for to in twice]
    asked = (*wanted, STEPS) if with_steps else tuple(wanted)
    found = set(targets)
    missing = tuple(name for name in asked if name not in found)
    # Slots of an optimizer are not asked for when weights alone are loaded.
    unexpected = tuple(n for n, to in names.items() if to not in wanted and not to.startswith("optimizer."))
    if strict and len(missing) == len(asked) > MOST_TOLD:
        problems.append(_of_another_net(path, list(names), asked))
    elif strict:
        problems += [
            Diagnostic(f"missing: {path} has no tensor `{name}`", help=did_you_mean(name, unexpected))
            for name in missing[:MOST_TOLD]
        ]
        if len(missing) > MOST_TOLD:
            problems.append(Diagnostic(f"missing: {path} has none of {len(missing) - MOST_TOLD} more tensors"))
        problems += [Diagnostic(f"unexpected: the net has nothing named `{n}`") for n in unexpected[:MOST_TOLD]]
        if len(unexpected) > MOST_TOLD:
            problems.append(Diagnostic(f"unexpected: {len(unexpected) - MOST_TOLD} more tensors of {path}"))
    for name, to in names.items():
        if to not in wanted:
            continue
        shape, dtype = shapes[name]
        view = wanted[to]
        if shape != list(view.shape):
            problems.append(Diagnostic(f"`{to}` has shape {shape} in {path}, but {list(view.shape)} in the net"))
        elif not _fits(dtype, view.dtype):
            problems.append(Diagnostic(f"`{to}` holds {dtype} in {path}, but {view.dtype} in the net"))
    if with_steps and shapes.get(STEPS, ([1], "I64")) != ([1], "I64"):
        shape, dtype = shapes[STEPS]
        problems.append(Diagnostic(f"`{STEPS}` is {dtype} {shape} in {path}, but must be I64 [1]"))
    if problems:
        raise UsageError(problems)
    return LoadReport(missing, unexpected)


def _of_another_net(path: Path, held: Sequence[str], asked: Sequence[str]) -> Diagnostic:
    return Diagnostic(
        f"{path} is of another net: it has none of the {len(asked)} tensors that this net loads",
        notes=(f"it holds {_some(held)}", f"the net loads {_some(asked)}"),
        help="load() takes other names by `rename={..}`, and what fits by `strict=False`",
    )


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:3])
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed or "nothing"


def _fits(dtype: str, wanted: np.dtype[np.generic]) -> bool:
    """Floats of either width are taken for floats; all else must be what the net holds."""
    return dtype in DTYPES and (np.dtype(DTYPES[dtype]) == wanted or (dtype in ("F32", "F64") and wanted.kind == "f"))
