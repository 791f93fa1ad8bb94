"""Which driver runs nets: the device's, or the emulator."""

from __future__ import annotations

import os

from concatc.targets.cuda.device.driver import Driver

EMULATOR = "CONCATC_CUDA_EMULATOR"


def chosen_driver() -> Driver:
    """The emulator where ``CONCATC_CUDA_EMULATOR=1``, else the first device.

    Raises :class:`UsageError` where there is none.
    """
    if os.environ.get(EMULATOR) == "1":
        from concatc.targets.cuda.device.emulated_driver import emulated_driver

        return emulated_driver()
    from concatc.targets.cuda.device.cuda_driver import cuda_driver

    return cuda_driver()
