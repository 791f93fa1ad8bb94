"""The record of a native call: what the entry's code (`entry_ir.py`) and those who fill it (`entry.py`) agree on."""

from __future__ import annotations

from enum import IntEnum, auto

ENTRY = "entry"

# NumPy's `PyArrayObject_fields` and `PyArray_Descr` as far as they are alike in NumPy 1 and 2, with CPython's header of
# two words: offsets in bytes.
HEADER = {"type": 8, "data": 16, "rank": 24, "shape": 32, "descr": 56, "flags": 64}
DESCR = {"byte_order": 26, "number": 28}
C_CONTIGUOUS = 1  # of the flags
NATIVE = ord("=")  # byte order


class Word(IntEnum):
    """The words of a record, eight bytes each.  Tables stand behind them."""

    NDARRAY = 0  # the address of the type
    INPUTS = auto()  # how many, and the table of `InputWord`s; those with bounds come first
    INPUTS_AT = auto()
    CHECKED = auto()  # how many have bounds
    BOUNDS = auto()
    BOUNDS_AT = auto()
    RESULTS = auto()
    RESULTS_AT = auto()
    GUARDED_BEGIN = auto()  # addresses between which no array may lie
    GUARDED_END = auto()
    RUNNER = auto()  # `step.py`: run(bases, table, rows)
    BASES = auto()
    TABLE = auto()
    ROWS = auto()
    NONE = auto()  # the object
    DICT_SIZE = auto()  # functions of CPython's stable ABI
    DICT_GET = auto()
    DICT_NEW = auto()
    DICT_SET = auto()
    FLOAT_NEW = auto()
    LONG_NEW = auto()
    INC_REF = auto()
    DEC_REF = auto()
    ERR_OCCURRED = auto()
    SAVE_THREAD = auto()
    RESTORE_THREAD = auto()


class InputWord(IntEnum):
    """One input: what its array must be, and where it is copied to, as runs of bytes that lie ``STEP`` apart."""

    KEY = 0
    DESCR = auto()  # of NumPy's own descriptor objects; another one of the same number is as good
    NUMBER = auto()
    RANK = auto()
    SHAPE_AT = auto()
    BYTES = auto()
    TO = auto()
    RUNS = auto()
    RUN_BYTES = auto()
    STEP = auto()
    FROM = auto()  # written by the entry


class BoundsWord(IntEnum):
    """Elements ``STEP`` apart, of ``BYTES`` bytes each (4 or 8), below ``EXTENT`` (unsigned) or ``IGNORED``."""

    AT = 0
    BYTES = auto()
    COUNT = auto()
    STEP = auto()
    EXTENT = auto()
    IGNORED = auto()


class ResultWord(IntEnum):
    """A float of ``BYTES`` bytes (4 or 8)."""

    KEY = 0
    AT = auto()
    BYTES = auto()
