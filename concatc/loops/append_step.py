"""Two modules of loops as one: the calls of the second behind those of the first.

    @step(%params, %arena) { A }    @step(%params, %optimizer) { B }    ->    @step(%params, %arena, %optimizer) { A B }

Bases are joined by name; a kernel whose name is taken gets another one.
"""

from __future__ import annotations

from concatc.ir.clone import clone_module
from concatc.ir.core import Module, Operation, SymbolRef, Value


def append_step(first: Module, second: Module) -> Module:
    """A new module; the two given stay as they are."""
    module, added = clone_module(first), clone_module(second)
    step = module.main
    bases = {arg.name: arg for arg in step.args}
    values: dict[Value, Value] = {}
    for arg in added.main.args:
        if arg.name not in bases:
            bases[arg.name] = step.body.add_arg(arg.type, arg.name)
        values[arg] = bases[arg.name]
    taken = dict.fromkeys(f.sym_name for f in module.functions)
    names: dict[str, str] = {}
    for kernel in added.functions[1:]:
        name, count = kernel.sym_name, 2
        while name in taken:
            name, count = f"{kernel.sym_name}.{count}", count + 1
        taken[name] = None
        names[kernel.sym_name] = kernel.sym_name = name
        module.add(kernel)
    for op in added.main.ops[:-1]:
        attributes = dict(op.attributes)
        callee = attributes.get("callee")
        if isinstance(callee, SymbolRef):
            attributes["callee"] = SymbolRef(names[callee.name])
        types, result_names = [r.type for r in op.results], [r.name for r in op.results]
        operands = [values[v] for v in op.operands]
        made = Operation(op.name, operands, types, attributes, loc=op.loc, result_names=result_names)
        values.update(zip(op.results, made.results, strict=True))
        step.body.insert_before(step.ret, made)
    return module
