"""What runs on a device: the source of kernels, and the launches of a plan with their arguments.

k1_linear  grid 12  block 256   (80, 128, arena+0, params+512, 128, arena+41216, True)
"""

from __future__ import annotations

from dataclasses import dataclass

# The base that holds what kernels of one launch of the plan hand to each other; it is not one of the plan's.
SCRATCH = "scratch"
# A grid-stride loop needs no more blocks than a device holds at once; this is several times as many.
MOST_BLOCKS = 4096
MOST_THREADS = 1024  # of a block, on any device


@dataclass(frozen=True)
class Pointer:
    """The address of an element of ``dtype``, ``offset_bytes`` into a base.

    The kernel touches no byte of the base outside of ``begin_bytes .. end_bytes``.
    """

    base: str
    offset_bytes: int
    dtype: str
    begin_bytes: int
    end_bytes: int

    def __str__(self) -> str:
        return f"{self.base}+{self.offset_bytes}"


Argument = Pointer | int | float | bool


@dataclass(frozen=True)
class GpuLaunch:
    """One launch: ``grid`` blocks of ``block`` threads, arguments in the order of the function's parameters.

    ``plan_kernel`` is the kernel of the plan that it is a part of, ``line`` the line of the source that it is of.
    """

    kernel: str
    grid: int
    block: int
    arguments: tuple[Argument, ...]
    phase: str
    plan_kernel: str
    line: str = ""

    def __str__(self) -> str:
        given = ", ".join(map(str, self.arguments))
        line = f"  {self.line}" if self.line else ""
        return f"{self.phase:8} {self.kernel:32} grid {self.grid:<6} block {self.block:<4} ({given}){line}"


@dataclass(frozen=True)
class GpuModule:
    """The kernels of a plan as Python source, their launches in order, and the bytes of the bases.

    ``signatures`` holds the types of each kernel's parameters: ``*f32`` for a pointer, ``i32``, ``i1``, ``f32``.
    """

    source: str
    launches: tuple[GpuLaunch, ...]
    bases: dict[str, int]
    signatures: dict[str, tuple[str, ...]]

    def followed_by(self, other: GpuModule) -> GpuModule:
        """This module, then another one on the same bases and maybe more; their kernels have other names."""
        assert not self.signatures.keys() & other.signatures.keys(), "kernels of one name"
        bases = {**self.bases, **other.bases}
        scratch = max(module.bases.get(SCRATCH, 0) for module in (self, other))
        if scratch:
            bases[SCRATCH] = scratch
        return GpuModule(
            f"{self.source}\n{other.source}",
            (*self.launches, *other.launches),
            bases,
            {**self.signatures, **other.signatures},
        )

    def launch_list(self) -> str:
        """The launches as text, a line each."""
        return "".join(f"{launch}\n" for launch in self.launches)
