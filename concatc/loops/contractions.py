"""Chooses how a contraction reads its operands: as they lie, packed, over rows, image by image, or by tiles."""

from __future__ import annotations

from concatc.diagnostics import ConcatcError, Diagnostic, did_you_mean
from concatc.ir.core import FuncOp
from concatc.loops.channel_lanes import channel_lanes_of, put_channels_in_lanes
from concatc.loops.expr import loads
from concatc.loops.flat_rows import flat_rows_of, flatten_rows
from concatc.loops.image_sums import image_sums_of, sum_images
from concatc.loops.outer_loop import share_outer_loop
from concatc.loops.packing import Packed, is_contraction, packing_of
from concatc.loops.phases import phases_of, split_phases
from concatc.loops.program import PiecesOf, Program, Statement, program_of
from concatc.loops.unit_windows import drop_unit_windows
from concatc.loops.winograd import run_by_tiles, share_images
from concatc.loops.winograd_algorithms import ALGORITHMS


def arrange_contractions(program: Program) -> None:
    """Rearrange in place the first contraction that gains by it; a kernel has one."""
    for statement in program.statements:
        if statement.kind == "fold" and is_contraction(statement.piece) and _arrange(program, statement):
            return


def can_run_by_tiles(kernel: FuncOp, pieces_of: PiecesOf) -> bool:
    """Whether the operation of a kernel that has an ``algorithm`` can run by it, with all that stands around it."""
    program = program_of(kernel, pieces_of)
    fold = next((s for s in program.statements if s.algorithm is not None), None)
    can = fold is not None and fold.algorithm in ALGORITHMS and share_images(program, fold) is not None
    program.forget()
    return can


def _arrange(program: Program, fold: Statement) -> bool:
    if fold.algorithm is not None:
        _run_by_algorithm(program, fold, fold.algorithm)
        return True
    drop_unit_windows(fold)
    sums = image_sums_of(fold)
    if sums is not None and not any(s.outer for s in program.statements):
        sum_images(program, fold, sums)
        return True
    lanes = channel_lanes_of(fold)
    if lanes is not None and share_outer_loop(program, fold, lanes.at[0], 1):
        put_channels_in_lanes(program, fold, lanes)
        return True
    for load in loads(fold.piece.value):
        packing = packing_of(fold.piece, load)
        if packing is None:
            continue
        packed = Packed(fold, load)
        by_image = packing.block == 1 and fold.piece.at[0] is packing.axis
        phases = phases_of(fold, load) if by_image else None
        if phases is not None and share_outer_loop(program, fold, packing.axis, 1):
            split_phases(program, fold, phases, packing.dim)
            return True
        flat = flat_rows_of(fold, load, packed.read, fold.piece.at[-2:]) if by_image else None
        pays = fold.buffer(load.ref).inlined or flat is not None or (by_image and packed.halo.strided)
        if not pays and not (by_image and _has_sums(program, fold)):
            continue
        if share_outer_loop(program, fold, packing.axis, packing.block):
            if pays:
                packed.insert(program, packing.dim)
            if flat is not None:
                flatten_rows(program, fold, flat)
            return True
    return False


def _run_by_algorithm(program: Program, fold: Statement, name: str) -> None:
    if name not in ALGORITHMS:
        raise ConcatcError(Diagnostic(f"no algorithm `{name}`", fold.loc, help=did_you_mean(name, list(ALGORITHMS))))
    if not run_by_tiles(program, fold, ALGORITHMS[name]):
        raise ConcatcError(
            Diagnostic(
                f"this operation cannot run by `{name}` in its kernel",
                fold.loc,
                help="3 x 3 convolutions of stride 1 and their gradients can; without `algorithm` it runs directly",
            )
        )


def _has_sums(program: Program, fold: Statement) -> bool:
    """Whether sums of what the contraction makes stand in its kernel."""
    return any(s is not fold and s.kind == "fold" for s in program.statements)
