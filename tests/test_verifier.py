# ruff: noqa: E501  (a line of text beside its message)
"""The verifier catches broken modules: structure, operations of MLIR, ops, levels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concatc.diagnostics import ConcatcError
from concatc.ir.core import Block, FuncOp, Module, Operation, Region, SymbolRef, Use, Value
from concatc.ir.parser import parse_module
from concatc.ir.types import F32, I1, INDEX, TensorType
from concatc.ir.verifier import problems
from concatc.ir.verifier import verify as verify_structure
from concatc.passes.verify import verify
from tests.std_module import every_op

TENSOR = TensorType((2, 3))


def relu_net() -> Module:
    return parse_module("""
    module @m {
      func.func @f(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
        %y = "cnet.relu"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
        %z = "cnet.relu"(%y) : (tensor<2x3xf32>) -> tensor<2x3xf32>
        func.return %z : tensor<2x3xf32>
      }
    }
    """)


def swap(module: Module) -> None:
    ops = module.main.body.ops
    ops[0], ops[1] = ops[1], ops[0]


def forget_a_use(module: Module) -> None:
    module.main.args[0].uses.clear()


def invent_a_use(module: Module) -> None:
    module.main.args[0].uses.append(Use(module.main.ops[1], 0))


def list_a_use_twice(module: Module) -> None:
    module.main.args[0].uses.append(module.main.args[0].uses[0])


def keep_a_removed_reader(module: Module) -> None:
    Operation("cnet.relu", [module.main.args[0]], [TENSOR])


def read_a_value_of_another_function(module: Module) -> None:
    other = FuncOp("g", [TENSOR], ["x"])
    other.body.append(Operation("func.return", [module.main.args[0]]))
    module.add(other)


def put_an_operation_into_a_strange_block(module: Module) -> None:
    module.main.ops[0].block = Block()


def lose_the_return(module: Module) -> None:
    module.main.ret.set_operands([])
    module.main.body.ops.pop()


def return_early(module: Module) -> None:
    early = Operation("func.return")
    early.block = module.main.body
    module.main.body.ops.insert(0, early)


def name_results_wrongly(module: Module) -> None:
    module.main.result_attrs = [{}, {}]


def name_functions_alike(module: Module) -> None:
    module.add(FuncOp("f", declared=[]))


def own_wrongly(module: Module) -> None:
    module.main.ops[0].result.index = 3


def call(callee: str, operands: list[Value], module: Module) -> None:
    made = Operation("func.call", operands, [], {"callee": SymbolRef(callee)})
    module.main.body.insert_before(module.main.ret, made)


STRUCTURE: dict[str, tuple[Callable[[Module], None], str]] = {
    "order": (swap, "cnet.relu reads %y before it is defined"),
    "forgotten use": (forget_a_use, "%x does not list its use by cnet.relu"),
    "invented use": (invent_a_use, "%x lists a use by cnet.relu, which does not read it"),
    "doubled use": (list_a_use_twice, "a use of %x is listed twice"),
    "removed reader": (keep_a_removed_reader, "%x lists a use by an operation cnet.relu that was removed"),
    "other function": (read_a_value_of_another_function, "func.return reads %x which is not defined here"),
    "strange block": (put_an_operation_into_a_strange_block, "cnet.relu stands in a block that it does not know"),
    "no return": (lose_the_return, "the region of func.func does not end in func.return"),
    "early return": (return_early, "func.return stands before the end of its block"),
    "result attributes": (name_results_wrongly, "@f returns 1 values, but has attributes for 2"),
    "two functions": (name_functions_alike, "there are two functions @f"),
    "owner": (own_wrongly, "%y does not know where it is defined"),
    "unknown callee": (lambda m: call("g", [], m), "func.call of @g, which is no function of the module"),
    "wrong call": (lambda m: call("f", [], m), "func.call does not fit @f: (tensor<2x3xf32>) -> (tensor<2x3xf32>)"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_broken_structure(name: str) -> None:
    damage, expected = STRUCTURE[name]
    module = relu_net()
    verify(module)
    damage(module)
    assert expected in [d.message for d in problems(module)]


def test_all_that_is_wrong_is_reported_with_the_function() -> None:
    module = relu_net()
    forget_a_use(module)
    name_results_wrongly(module)
    with pytest.raises(ConcatcError) as error:
        verify_structure(module)
    assert len(error.value.diagnostics) == 2
    assert error.value.diagnostics[0].notes == ("in @f",)


def kernel(module: Module, result: TensorType, arg: TensorType, terminator: str) -> None:
    block = Block([arg], ["x_"])
    block.append(Operation(terminator, [block.args[0]]))
    made = Operation("cnet.kernel", [module.main.args[0]], [result], {"sym_name": "k"}, [Region([block])])
    module.main.body.insert_before(module.main.ret, made)


@pytest.mark.parametrize(
    ("result", "arg", "terminator", "expected"),
    [
        (TENSOR, TensorType((3, 2)), "cnet.yield", "the arguments of a kernel's region have the types of its operands"),
        (
            TensorType((1,)),
            TENSOR,
            "cnet.yield",
            "cnet.yield gives (tensor<2x3xf32>), but cnet.kernel has results (tensor<1xf32>)",
        ),
        (TENSOR, TENSOR, "func.return", "func.return cannot end a region of cnet.kernel"),
        (TENSOR, TENSOR, "cnet.relu", "the region of cnet.kernel does not end in cnet.yield"),
    ],
)
def test_broken_kernels(result: TensorType, arg: TensorType, terminator: str, expected: str) -> None:
    module = relu_net()
    kernel(module, result, arg, terminator)
    assert expected in [d.message for d in problems(module)]


def test_every_operation_of_mlir_is_right() -> None:
    assert problems(parse_module(every_op())) == []


# Each line is read without complaint, and wrong.
STD = {
    '%y = "arith.addf"(%f, %n) : (f32, index) -> f32': "arith.addf needs operands and results of one type, f32",
    '%y = "arith.addf"(%f) : (f32) -> f32': "arith.addf takes 2 operands and has 1 results, not 1 and 1",
    "%y = arith.addi %f, %f : f32": "arith.addi does not work on f32",
    "%y = math.exp %n : index": "math.exp does not work on index",
    '%y = "arith.cmpf"(%f, %f) {predicate = "lt"} : (f32, f32) -> i1': "arith.cmpf: unknown predicate lt",
    '%y = "arith.cmpi"(%n, %i) {predicate = "eq"} : (index, i32) -> i1': "arith.cmpi compares index with i32",
    '%y = "arith.cmpi"(%n, %n) {predicate = "eq"} : (index, index) -> i32': "the result of arith.cmpi has type i1, not i32",
    "%y = arith.select %n, %f, %f : f32": "the condition of arith.select has type i1, not index",
    '%y = "arith.select"(%t, %f, %n) : (i1, f32, index) -> f32': "arith.select chooses between f32 and index for f32",
    "%y = arith.sitofp %f : f32 to f64": "arith.sitofp does not turn f32 into f64",
    "%y = arith.index_cast %i : i32 to i64": "arith.index_cast casts between index and another integer, not i32 to i64",
    '%y = "arith.constant"() {value = 1 : i64} : () -> f32': "arith.constant of type f32 cannot be 1",
    '%y = "arith.constant"() : () -> i1': "arith.constant of type i1 cannot be None",
    "%y = memref.load %m[%n] : memref<2x3xf32>": "memref.load has 1 indices for memref<2x3xf32>",
    "%y = memref.load %m[%n, %i] : memref<2x3xf32>": "the indices of memref.load have type index",
    "memref.store %n, %m[%n, %n] : memref<2x3xf32>": "memref.store moves index in memref<2x3xf32>",
    '"memref.store"(%f, %f) : (f32, f32) -> ()': "memref.store works on a memref, not on f32",
    "%y = memref.alloca() : memref<?xf32>": "memref.alloca of memref<?xf32> takes 1 extents, not 0",
    "%y = memref.view %m[%n][%n] : memref<2x3xf32> to memref<2xf32>": "memref.view of memref<2xf32> takes an offset and 0 extents, not 2 values",
    "%y = memref.subview %m[0] [2] [1] : memref<2x3xf32> to memref<2x3xf32>": "memref.subview gives 1 sizes for memref<2x3xf32>",
    '%y = "memref.subview"(%m, %n) {offsets = array<i64: 0>, sizes = array<i64: 2>, strides = array<i64: 1>} : (memref<2x3xf32>, index) -> memref<2xf32>': "memref.subview has 1 values for 0 places",
    '%y = "memref.cast"(%f) : (f32) -> memref<2xf32>': "memref.cast works on a memref",
    "scf.if %n {}": "scf.if reads one condition of type i1",
    '"scf.for"(%n, %n) : (index, index) -> ()': "scf.for holds one region of one block",
    "%y = scf.if %t -> (f32) { scf.yield %f : f32 }": "scf.if with results needs an else",
    "%y = scf.if %t -> (f32) { scf.yield %n : index } else { scf.yield %f : f32 }": "scf.yield gives (index), but scf.if has results (f32)",
    '"arith.unknown"() : () -> ()': "unknown operation arith.unknown",
}


@pytest.mark.parametrize("line", STD, ids=range(len(STD)))
def test_operations_of_mlir(line: str) -> None:
    text = f"func.func @f(%f: f32, %n: index, %i: i32, %t: i1, %m: memref<2x3xf32>) {{ {line}\n func.return }}"
    module = parse_module(f"module {{ {text} }}")
    assert STD[line] in [d.message for d in problems(module)]


OPS = {
    '%y = "cnet.rellu"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>': "unknown op cnet.rellu; did you mean `relu`?",
    '%y = "cnet.relu"(%x) : (tensor<2x3xf32>) -> tensor<3x2xf32>': "cnet.relu has results (tensor<3x2xf32>), but its operands and attributes give (tensor<2x3xf32>)",
    '%y = "cnet.relu"(%x, %x) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>': "cnet.relu takes 1 operand, not 2",
    '%y = "cnet.concat"() {axis = 0 : i64} : () -> tensor<2x3xf32>': "cnet.concat takes 1 or more operands, not 0",
    '%y = "cnet.concat"(%x) {axis = "0"} : (tensor<2x3xf32>) -> tensor<2x3xf32>': "concat: `axis` must be an integer, not '0'",
    '%y = "cnet.concat"(%x) {axis = 5 : i64} : (tensor<2x3xf32>) -> tensor<2x3xf32>': "concat has no axis 5: %x is tensor<2x3xf32>, its axes are 0 to 1",
    '%y = "cnet.slice"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>': "slice needs the attribute `sizes`",
    '%y = "cnet.split"(%x) {ways = 999999999 : i64} : (tensor<2x3xf32>) -> tensor<2x3xf32>': "cnet.split: 999999999 results are too many",
    '%y = "cnet.batch_norm"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>': "cnet.batch_norm is a function of the language; the IR holds the ops that it is made of",
    '%y = "cnet.relu"(%f) : (f32) -> f32': "cnet.relu works on tensors",
}


@pytest.mark.parametrize("line", OPS, ids=range(len(OPS)))
def test_ops(line: str) -> None:
    module = parse_module(f"module {{ func.func @f(%x: tensor<2x3xf32>, %f: f32) {{ {line}\n func.return }} }}")
    with pytest.raises(ConcatcError) as error:
        verify(module)
    assert [d.message for d in error.value.diagnostics] == [OPS[line]]


def test_names_of_the_interface_are_unique() -> None:
    module = relu_net()
    module.main.args[0].attrs = {"cnet.kind": "input", "cnet.name": "x"}
    module.main.body.add_arg(TENSOR, "y").attrs = {"cnet.kind": "input", "cnet.name": "x"}
    with pytest.raises(ConcatcError, match="has two arguments of kind input named `x`"):
        verify(module)


JOINT = """
module { func.func @f(%x: tensor<3xf32>, %g: tensor<3xf32> {cnet.kind = "output_grad", cnet.name = "y"}) {
  %y = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>
  %d = "cnet.relu_grad"(%y, %g) {transposes = "relu %y"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
  %e = "cnet.relu_grad"(%y, READ) {transposes = "relu %y"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
  func.return
} }
"""


def test_levels() -> None:
    residual = parse_module(JOINT.replace("READ", "%d"))
    verify(residual, "joint")
    with pytest.raises(ConcatcError, match=r"%y has 2 readers \(cnet.relu_grad, cnet.relu_grad\)"):
        verify(residual, "split")
    fan_out = parse_module(JOINT.replace("READ", "%g"))
    verify(fan_out)
    with pytest.raises(ConcatcError, match="%g has 2 readers"):
        verify(fan_out, "joint")


def test_the_time_is_linear_in_readers() -> None:
    func = FuncOp("f", [TENSOR], ["x"])
    for _ in range(5000):
        func.body.append(Operation("cnet.relu", [func.args[0]], [TENSOR]))
    func.body.append(Operation("func.return"))
    verify(Module("m", [func]))


def test_types_of_a_loop() -> None:
    func = FuncOp("f", [INDEX, F32, I1], ["n", "f", "t"])
    n, f, t = func.args
    body = Block([INDEX, F32], ["i", "a"])
    body.append(Operation("scf.yield", [t]))
    func.body.append(Operation("scf.for", [n, n, n, f], [F32], {}, [Region([body])]))
    func.body.append(Operation("func.return"))
    assert [d.message for d in problems(Module("m", [func]))] == ["scf.yield gives (i1), but scf.for has results (f32)"]
