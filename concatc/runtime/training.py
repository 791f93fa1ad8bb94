"""Train a net on a data set: epochs of batches, and accuracy on rows that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from concatc.loops.memory import Array
from concatc.runtime.dataset import Dataset
from concatc.runtime.index_check import IndexCheck, check_indices
from concatc.runtime.module import CompiledModule
from concatc.runtime.optimizers import Optimizer


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean losses by name, and accuracy (0 to 1) on the held-out rows where it can be told."""

    number: int
    losses: dict[str, float]
    accuracy: float | None


def train(
    net: CompiledModule,
    data: Dataset,
    optimizer: Optimizer,
    epochs: int,
    seed: int = 0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train for some epochs; ``on_step`` gets the epoch and the losses of each step.

    The order of rows depends on ``seed`` alone.  Raises :class:`UsageError` before the first step where a label of any
    row is out of range: inference reads no labels, so nothing else looks at those of held-out rows.
    """
    data.check(net.index_checks)
    rng = np.random.default_rng(seed)
    history = []
    for number in range(1, epochs + 1):
        sums: dict[str, float] = {}
        for batch in data.epoch(rng):
            losses = net.train_step(batch, optimizer=optimizer)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            if on_step is not None:
                on_step(number, losses)
        epoch = Epoch(number, {name: total / data.steps for name, total in sums.items()}, held_out_accuracy(net, data))
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
    return history


def held_out_accuracy(net: CompiledModule, data: Dataset) -> float | None:
    """The share of held-out rows whose label has the highest score.

    None where no row is held out, or the net has no pair of a label of ``softmax_loss`` and an output of its shape with
    the classes on the last axis.
    """
    pair = scores_and_labels(net)
    if pair is None or not len(data.held_rows):
        return None
    output, check = pair
    slots = data.slots(check.name)
    if slots is None:
        return None
    right = total = 0
    for batch, valid in data.held_batches():
        hits, counted = _hits(net.eval(batch)[output], batch[check.name], check)
        right += int(np.sum(hits & (slots < valid)))
        total += int(np.sum(counted & (slots < valid)))
    return right / total if total else None


def accuracy_of(net: CompiledModule, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> float | None:
    """The share of rows of an `eval` whose label has the highest score; None where the net or the labels do not say.

    Raises :class:`UsageError` for labels out of range.
    """
    pair = scores_and_labels(net)
    if pair is None or pair[1].name not in labels:
        return None
    output, check = pair
    if outputs[output].shape[:-1] != labels[check.name].shape:
        return None
    check_indices([check], {check.kind: labels})
    hits, counted = _hits(outputs[output], labels[check.name], check)
    return float(hits.sum() / counted.sum()) if counted.any() else None


def _hits(scores: Array, labels: Array, check: IndexCheck) -> tuple[Array, Array]:
    """For each row, whether its label has the highest score, and whether it counts: ignored labels do not."""
    counted = np.ones(labels.shape, bool) if check.ignored is None else labels != check.ignored
    return (scores.argmax(axis=-1) == labels) & counted, counted


def scores_and_labels(net: CompiledModule) -> tuple[str, IndexCheck] | None:
    """An output with scores and the label that they are compared with."""
    for check in net.index_checks:
        label = net.signature.inputs[check.name]
        if check.positions is not None or not check.op.endswith("softmax_loss") or label.type.rank != 1:
            continue
        for name, type in net.outputs.items():
            if type.shape == (*label.type.shape, check.extent):
                return name, check
    return None
