"""LLVM IR of the native entry: what a call from Python does before and behind the launches of a step.

    entry(record, {"a": array, ..})  ->  {"loss": 0.7, ..}      every header is read, every byte copied, without Python

The entry is a function as CPython calls it (``METH_O``).  Its ``self`` is a NumPy array, the *record*: words that say
what to expect of each array, where it goes, what is called and what comes back (`Word`).  All addresses, those of
CPython's functions too, stand there, so the code depends on no net and on no version of Python or NumPy; where fields
lie in an array's header is known (`record.py`) and proved at run time before an entry is made (`entry.py`).

Headers are read with the interpreter lock; elements are copied and compared, and launches run, without it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from llvmlite import ir

from concatc.targets.cpu.record import (
    C_CONTIGUOUS,
    DESCR,
    ENTRY,
    HEADER,
    NATIVE,
    BoundsWord,
    InputWord,
    ResultWord,
    Word,
)

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
POINTER = ir.PointerType()
BIT, VOID = ir.IntType(1), ir.VoidType()


def entry_ir() -> str:
    """The functions of the entry, as text without a module around it."""
    module = ir.Module()
    _Entry(module).build()
    return "\n".join(str(function) for function in module.functions)


def _check(module: Any, bits: int) -> Any:
    """``i1 check(at, count, step, extent, ignored)``: whether all elements are valid; vector code where step is 1."""
    number = ir.IntType(bits)
    function = ir.Function(module, ir.FunctionType(ir.IntType(1), [POINTER, I64, I64, I64, I64]), f"check{bits}")
    function.attributes.add("nounwind")
    function.linkage = "internal"
    at, count, step, extent, ignored = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    low, other = (v if bits == 64 else b.trunc(v, number) for v in (extent, ignored))
    wrong = b.alloca(number)
    b.store(number(0), wrong)

    def element(k: Any) -> None:
        value = b.load(b.gep(at, [b.mul(k, step)], source_etype=number), typ=number, align=bits // 8)
        bad = b.and_(b.icmp_unsigned(">=", value, low), b.icmp_signed("!=", value, other))
        b.store(b.or_(b.load(wrong, typ=number), b.zext(bad, number)), wrong)

    _loop(b, count, element)
    b.ret(b.icmp_signed("==", b.load(wrong, typ=number), number(0)))
    return function


def _loop(b: Any, count: Any, body: Callable[[Any], None]) -> None:
    """``for k in 0 .. count - 1: body(k)``; the body may go on in other blocks, and may return."""
    before, head = b.block, b.append_basic_block("head")
    inside, behind = b.append_basic_block("body"), b.append_basic_block("behind")
    b.branch(head)
    b.position_at_end(head)
    k = b.phi(I64)
    k.add_incoming(I64(0), before)
    b.cbranch(b.icmp_signed("<", k, count), inside, behind)
    b.position_at_end(inside)
    body(k)
    k.add_incoming(b.add(k, I64(1)), b.block)
    b.branch(head)
    b.position_at_end(behind)


class _Entry:
    """Writes ``PyObject *entry(PyObject *self, PyObject *arrays)``; ``arrays`` is a dict."""

    def __init__(self, module: Any) -> None:
        self._copy = module.declare_intrinsic("llvm.memcpy", [POINTER, POINTER, I64])
        self._checks = [_check(module, bits) for bits in (32, 64)]
        function = ir.Function(module, ir.FunctionType(POINTER, [POINTER, POINTER]), ENTRY)
        function.attributes.add("nounwind")
        this, self._arrays = function.args
        self._b = ir.IRBuilder(function.append_basic_block("entry"))
        self._record = self._field(this, HEADER["data"])

    def build(self) -> None:
        """Headers; then without the lock: inputs that have bounds, bounds, the other inputs, launches; results."""
        b = self._b
        valid = self._variable(BIT)
        b.store(BIT(1), valid)
        size = self._call(Word.DICT_SIZE, I64, [self._arrays])
        self._only_if(b.icmp_signed("==", size, self._word(Word.INPUTS)))
        _loop(b, self._word(Word.INPUTS), self._read_header)
        thread = self._call(Word.SAVE_THREAD, POINTER, [])
        _loop(b, self._word(Word.CHECKED), self._copy_in)

        def compare(k: Any) -> None:
            b.store(b.and_(b.load(valid, typ=BIT), self._are_valid(k)), valid)

        _loop(b, self._word(Word.BOUNDS), compare)
        with b.if_then(b.not_(b.load(valid, typ=BIT))):
            self._call(Word.RESTORE_THREAD, VOID, [thread])
            self._return_none()
        rest = b.sub(self._word(Word.INPUTS), self._word(Word.CHECKED))
        _loop(b, rest, lambda k: self._copy_in(b.add(k, self._word(Word.CHECKED))))
        launches = [self._pointer(Word.BASES), self._pointer(Word.TABLE), self._word(Word.ROWS)]
        status = self._call(Word.RUNNER, ir.IntType(32), launches)
        self._call(Word.RESTORE_THREAD, VOID, [thread])
        with b.if_then(b.icmp_signed("!=", status, status.type(0))):
            b.ret(self._call(Word.LONG_NEW, POINTER, [b.sext(status, I64)]))
        results = self._call(Word.DICT_NEW, POINTER, [])
        self._raised_if(self._is_null(results))
        _loop(b, self._word(Word.RESULTS), lambda k: self._add_result(results, k))
        b.ret(results)

    def _read_header(self, k: Any) -> None:
        """Return where the input's array is not plain; else note where its elements are."""
        b, row = self._b, self._row(Word.INPUTS_AT, k, InputWord)
        array = self._call(Word.DICT_GET, POINTER, [self._arrays, self._load(row, InputWord.KEY, POINTER)])
        with b.if_then(self._is_null(array)):
            self._raised_if(b.not_(self._is_null(self._call(Word.ERR_OCCURRED, POINTER, []))))
            self._return_none()
        self._only_if(b.icmp_unsigned("==", self._field(array, HEADER["type"]), self._pointer(Word.NDARRAY)))
        rank = self._load(row, InputWord.RANK, I64)
        self._only_if(b.icmp_signed("==", b.sext(self._field(array, HEADER["rank"], I32), I64), rank))
        flags = self._field(array, HEADER["flags"], I32)
        self._only_if(b.icmp_signed("!=", b.and_(flags, I32(C_CONTIGUOUS)), I32(0)))
        descr = self._field(array, HEADER["descr"])
        with b.if_then(b.icmp_unsigned("!=", descr, self._load(row, InputWord.DESCR, POINTER))):
            number = b.sext(self._field(descr, DESCR["number"], I32), I64)
            self._only_if(b.icmp_signed("==", number, self._load(row, InputWord.NUMBER, I64)))
            self._only_if(b.icmp_signed("==", self._field(descr, DESCR["byte_order"], I8), I8(NATIVE)))
        shape, wanted = self._field(array, HEADER["shape"]), self._load(row, InputWord.SHAPE_AT, POINTER)

        def same(axis: Any) -> None:
            here, there = (b.load(b.gep(at, [axis], source_etype=I64), typ=I64) for at in (shape, wanted))
            self._only_if(b.icmp_signed("==", here, there))

        _loop(b, rank, same)
        data = self._field(array, HEADER["data"], I64)
        end = b.add(data, self._load(row, InputWord.BYTES, I64))
        before = b.icmp_unsigned("<=", end, self._word(Word.GUARDED_BEGIN))
        behind = b.icmp_unsigned(">=", data, self._word(Word.GUARDED_END))
        self._only_if(b.or_(before, behind))
        b.store(data, self._at(row, InputWord.FROM))

    def _copy_in(self, k: Any) -> None:
        b, row = self._b, self._row(Word.INPUTS_AT, k, InputWord)
        source, to = self._load(row, InputWord.FROM, POINTER), self._load(row, InputWord.TO, POINTER)
        run_bytes, step = self._load(row, InputWord.RUN_BYTES, I64), self._load(row, InputWord.STEP, I64)

        def run(k: Any) -> None:
            here = b.gep(to, [b.mul(k, step)], source_etype=I8)
            b.call(self._copy, [here, b.gep(source, [b.mul(k, run_bytes)], source_etype=I8), run_bytes, BIT(0)])

        _loop(b, self._load(row, InputWord.RUNS, I64), run)

    def _are_valid(self, k: Any) -> Any:
        b, row = self._b, self._row(Word.BOUNDS_AT, k, BoundsWord)
        at = self._load(row, BoundsWord.AT, POINTER)
        words = (BoundsWord.COUNT, BoundsWord.STEP, BoundsWord.EXTENT, BoundsWord.IGNORED)
        numbers = [self._load(row, word, I64) for word in words]
        narrow = b.icmp_signed("==", self._load(row, BoundsWord.BYTES, I64), I64(4))
        found = self._variable(BIT)
        with b.if_else(narrow) as (then, otherwise):
            for branch, check in zip((then, otherwise), self._checks, strict=True):
                with branch:
                    b.store(b.call(check, [at, *numbers]), found)
        return b.load(found, typ=BIT)

    def _add_result(self, results: Any, k: Any) -> None:
        b, row = self._b, self._row(Word.RESULTS_AT, k, ResultWord)
        at, number = self._load(row, ResultWord.AT, POINTER), self._variable(F64)
        with b.if_else(b.icmp_signed("==", self._load(row, ResultWord.BYTES, I64), I64(4))) as (then, otherwise):
            with then:
                b.store(b.fpext(b.load(at, typ=F32), F64), number)
            with otherwise:
                b.store(b.load(at, typ=F64), number)
        value = self._call(Word.FLOAT_NEW, POINTER, [b.load(number, typ=F64)])
        self._raised_if(self._is_null(value), results)
        status = self._call(Word.DICT_SET, I32, [results, self._load(row, ResultWord.KEY, POINTER), value])
        self._call(Word.DEC_REF, VOID, [value])
        self._raised_if(b.icmp_signed("!=", status, I32(0)), results)

    def _only_if(self, plain: Any) -> None:
        """Return None, the object, unless ``plain``.  The lock is held."""
        with self._b.if_then(self._b.not_(plain)):
            self._return_none()

    def _return_none(self) -> None:
        self._call(Word.INC_REF, VOID, [self._pointer(Word.NONE)])
        self._b.ret(self._pointer(Word.NONE))

    def _raised_if(self, raised: Any, *owned: Any) -> None:
        """Return NULL, which says that an exception is set; give up references to ``owned``."""
        with self._b.if_then(raised):
            for value in owned:
                self._call(Word.DEC_REF, VOID, [value])
            self._b.ret(POINTER(None))

    def _is_null(self, pointer: Any) -> Any:
        return self._b.icmp_unsigned("==", pointer, POINTER(None))

    def _call(self, word: Word, result: Any, arguments: list[Any]) -> Any:
        type = ir.FunctionType(result, [v.type for v in arguments]).as_pointer()
        return self._b.call(self._load(self._record, word, type), arguments)

    def _variable(self, type: Any) -> Any:
        with self._b.goto_entry_block():
            return self._b.alloca(type)

    def _row(self, table: Word, k: Any, row: type[IntEnum]) -> Any:
        return self._b.gep(self._pointer(table), [self._b.mul(k, I64(len(row)))], source_etype=I64)

    def _at(self, row: Any, word: int) -> Any:
        return self._b.gep(row, [I64(int(word))], source_etype=I64)

    def _load(self, row: Any, word: int, type: Any) -> Any:
        return self._b.load(self._at(row, word), typ=type)

    def _word(self, word: Word) -> Any:
        return self._load(self._record, word, I64)

    def _pointer(self, word: Word) -> Any:
        return self._load(self._record, word, POINTER)

    def _field(self, object: Any, offset_bytes: int, type: Any = POINTER) -> Any:
        return self._b.load(self._b.gep(object, [I64(offset_bytes)], source_etype=I8), typ=type)
