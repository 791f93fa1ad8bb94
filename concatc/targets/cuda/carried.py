"""Device code that was made before, for some architectures: what a written module carries.

sm_80, sm_90   on a device that is sm_86   ->   the code for sm_80

Code for an architecture runs on devices of the same major version and of no lower minor one; code for one with the
suffix ``a`` runs on that one alone (CUDA C++ Programming Guide, "Binary Compatibility").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from concatc.diagnostics import Diagnostic, UsageError
from concatc.targets.cuda.arch import Arch


@dataclass(frozen=True)
class Carried:
    """Code of kernels: ``read(kernel, arch)`` gives it for each of ``arches``, ``what`` says in messages what it is."""

    what: str
    arches: tuple[Arch, ...]
    read: Callable[[str, Arch], bytes]

    def images(self, kernels: Iterable[str], device: str, arch: Arch) -> dict[str, bytes]:
        """The code that a device of an architecture runs best, by kernel.

        Raises :class:`UsageError` where there is none for it.
        """
        best = max((a for a in self.arches if a.runs_on(arch)), key=lambda a: (a.minor, a.suffix), default=None)
        if best is None:
            raise UsageError(
                Diagnostic(
                    f"{self.what} carries code for {', '.join(map(str, self.arches))}, and {device} is {arch}",
                    help=f"write it for this device: `concatc compile NET --target cuda --arch {arch} -o DIR`",
                )
            )
        return {kernel: self.read(kernel, best) for kernel in kernels}
