"""Names of GPU architectures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from concatc.diagnostics import UsageError

_ARCH = re.compile(r"sm_(\d+)(\d)(a?)")


@dataclass(frozen=True)
class Arch:
    """An architecture: ``sm_90`` is 9, 0."""

    major: int
    minor: int
    suffix: str = ""

    @staticmethod
    def of(name: str) -> Arch:
        """Parse ``sm_80``; raises :class:`UsageError` for anything else."""
        match = _ARCH.fullmatch(name)
        if match is None:
            raise UsageError(f"no architecture `{name}`; they are called sm_80, sm_90, ..")
        return Arch(int(match[1]), int(match[2]), match[3])

    def runs_on(self, device: Arch) -> bool:
        """Whether code for this architecture runs on a device of that one."""
        if self.suffix:
            return (self.major, self.minor) == (device.major, device.minor)
        return self.major == device.major and self.minor <= device.minor

    def __str__(self) -> str:
        return f"sm_{self.major}{self.minor}{self.suffix}"
