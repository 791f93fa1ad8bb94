"""One function that holds every operation of MLIR's own dialects which concatc prints, for tests of IR text."""

from __future__ import annotations

from concatc.ir.std_syntax import FLOAT_PREDICATES, INTEGER_PREDICATES, SYNTAX, Format

_HEAD = """\
module @std {
  func.func private @callee(f32, index) -> (f32, i32)
  func.func @every_op(
      %m: memref<4x8xf32>, %d: memref<?x8xf32, strided<[?, 1], offset: ?>>, %bytes: memref<64xi8>, %t: i1,
      %f: f32, %g: f32, %w: f64, %i: i32, %j: i32, %l: i64, %n: index, %o: index
  ) -> f32 attributes {cnet.kernel} {
"""

_TAIL = """\
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1.5 : f32
    %c2 = arith.constant 1.0e-30 : f64
    %c3 = arith.constant 0xFF800000 : f32
    %c4 = arith.constant -0.0 : f32
    %c5 = arith.constant true
    %c6 = arith.constant -3 : i64
    %sel = arith.select %t, %f, %g : f32
    %low, %high = arith.mului_extended %i, %j : i32
    %x0 = arith.index_cast %n : index to i64
    %x1 = arith.index_castui %i : i32 to index
    %x2 = arith.sitofp %i : i32 to f32
    %x3 = arith.uitofp %i : i32 to f64
    %x4 = arith.fptosi %f : f32 to i32
    %x5 = arith.fptoui %w : f64 to i64
    %x6 = arith.extui %i : i32 to i64
    %x7 = arith.extsi %i : i32 to i64
    %x8 = arith.trunci %l : i64 to i32
    %x9 = arith.bitcast %f : f32 to i32
    %x10 = arith.extf %f : f32 to f64
    %x11 = arith.truncf %w : f64 to f32
    %fma = math.fma %f, %g, %f : f32
    %fast = arith.addf %f, %g fastmath<reassoc,contract> : f32
    %v = memref.load %m[%n, %o] : memref<4x8xf32>
    memref.store %v, %d[%n, %o] : memref<?x8xf32, strided<[?, 1], offset: ?>>
    %view = memref.view %bytes[%n][%o] : memref<64xi8> to memref<?x2xf32>
    %dim = memref.dim %d, %c0 : memref<?x8xf32, strided<[?, 1], offset: ?>>
    %cast = "memref.cast"(%m) : (memref<4x8xf32>) -> memref<?x?xf32>
    %heap = memref.alloc(%n) : memref<?xf32>
    %stack = memref.alloca() {alignment = 64 : i64} : memref<16xf32>
    "memref.copy"(%heap, %heap) : (memref<?xf32>, memref<?xf32>) -> ()
    memref.dealloc %heap : memref<?xf32>
    %again = memref.reinterpret_cast %m to offset: [%n], sizes: [2, %o], strides: [8, 1]
      : memref<4x8xf32> to memref<2x?xf32, strided<[8, 1], offset: ?>>
    %part = memref.subview %m[%n, 0] [2, %o] [1, 1] : memref<4x8xf32> to memref<2x?xf32, strided<[8, 1], offset: ?>>
    %r, %s = func.call @callee(%f, %n) {cnet.phase = "forward"} : (f32, index) -> (f32, i32)
    %total, %count = scf.for %k = %n to %o step %n iter_args(%acc = %f, %seen = %i) -> (f32, i32) {
      %once = scf.if %t -> (f32) {
        scf.yield %acc : f32
      } else {
        scf.yield %g : f32
      }
      scf.yield %once, %seen : f32, i32
    } {cnet.parallel}
    scf.for %k = %i to %j step %i : i32 {
      scf.if %t {
        memref.store %f, %m[%n, %o] : memref<4x8xf32>
      }
    }
    func.return %total : f32
  }
}
"""


def every_op() -> str:
    """The text of the module."""
    lines = []
    for name, syntax in SYNTAX.items():
        if not isinstance(syntax, Format) or name.startswith("memref."):
            continue
        if name == "arith.cmpf":
            lines += [f"{name} {word}, %f, %g : f32" for word in FLOAT_PREDICATES]
        elif name == "arith.cmpi":
            lines += [f"{name} {word}, %i, %j : i32" for word in INTEGER_PREDICATES]
        elif name.startswith("math.") and name != "math.fma":
            lines.append(f"{name} %f, %g : f32" if "$1" in syntax.text else f"{name} %f : f32")
        elif name == "arith.negf":
            lines.append(f"{name} %f : f32")
        elif name.endswith("f") and "$2" not in syntax.text and "R" not in syntax.text:
            lines.append(f"{name} %f, %g : f32")
        elif syntax.text == "$0, $1{} : T0" and name != "arith.mului_extended":
            lines.append(f"{name} %i, %j : i32")
    body = "".join(f"    %e{k} = {line}\n" for k, line in enumerate(lines))
    return _HEAD + body + _TAIL
