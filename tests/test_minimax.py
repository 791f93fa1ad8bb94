"""The tables of coefficients are what the script that states their method prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpmath", reason="mpmath is not installed (PyTorch brings it: the extra `peers`)")

from benchmarks.minimax import table, tasks
from concatc.targets.cpu.coefficients import DOUBLE, SINGLE

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(("kind", "precision"), [(np.float32, SINGLE), (np.float64, DOUBLE)])
def test_tables_are_those_of_the_script(kind: Any, precision: Any) -> None:
    for task, degree in tasks(kind):
        coefficients, _, _ = table(task, degree, kind)
        assert getattr(precision, task.name.lower()) == tuple(float(str(kind(c))) for c in coefficients), task.name
