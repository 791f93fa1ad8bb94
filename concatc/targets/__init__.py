"""What a target is: it turns a compilation into something that runs on bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Executable(Protocol):
    """A compiled net.  ``bases[name]`` is a contiguous ``uint8`` array aligned to 64 bytes (see ``loops/plan.py``)."""

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run the launches of a phase: ``forward``, ``backward``, ``update``, or ``step`` (all of them, in order).

        Reads and writes the bases only.  ``backward`` follows a ``forward`` on the same bases.
        """
        ...
