"""lark's parse tree to the syntax tree of :mod:`concatc.frontend.cnet.ast`.

The parser bounds the nesting, so plain recursion is safe here.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from concatc.diagnostics import Diagnostic, Loc, did_you_mean
from concatc.frontend.cnet import ast, limits

# Words that start or join statements; they cannot name anything.
RESERVED = frozenset(
    ("net", "block", "import", "default", "input", "param", "state", "update", "output", "loss", "layer")
) | {"for", "in", "if", "else", "return", "and", "or", "not", "true", "false"}


class AstBuilder:
    """Makes the tree of one file; mistakes that the grammar cannot see go to ``errors``."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.errors: list[Diagnostic] = []
        self._next_uid = 0
        self._expressions: dict[str, Callable[[Any], ast.Expr]] = {
            "number": self._number,
            "string": lambda t: ast.String(str(t.children[0])[1:-1], self._loc(t)),
            "true": lambda t: ast.Boolean(True, self._loc(t)),
            "false": lambda t: ast.Boolean(False, self._loc(t)),
            "reference": lambda t: ast.Reference(tuple(map(str, t.children[0].children)), self._loc(t)),
            "list": lambda t: ast.ListExpr(self._items(t.children[0]), self._loc(t)),
            "index": self._index,
            "negate": lambda t: ast.Prefix("-", self._expr(t.children[0]), self._loc(t)),
            "not": lambda t: ast.Prefix("not", self._expr(t.children[0]), self._loc(t)),
            "power": lambda t: self._infix(t, [t.children[0], "^", t.children[1]]),
            "sum": lambda t: self._infix(t, t.children),
            "term": lambda t: self._infix(t, t.children),
            "and": lambda t: ast.Logic("and", tuple(map(self._expr, t.children)), self._loc(t)),
            "or": lambda t: ast.Logic("or", tuple(map(self._expr, t.children)), self._loc(t)),
            "comparison": self._comparison,
            "choice": self._choice,
            "range": lambda t: ast.RangeExpr(self._expr(t.children[0]), self._expr(t.children[1]), self._loc(t)),
            "call": self._call,
            "pipeline": self._pipeline,
            "bad_expr": lambda t: ast.BadExpr(self._loc(t)),
        }
        self._statements: dict[str, Callable[[Any], ast.Statement]] = {
            "assign": lambda t: ast.Assign(self._names(t.children[0]), self._expr(t.children[1]), self._loc(t)),
            "augment": lambda t: ast.Augment(self._name(t.children[0]), self._expr(t.children[1]), self._loc(t)),
            "input": lambda t: ast.Input(self._name(t.children[0]), self._type(t.children[1]), self._loc(t)),
            "parameter": self._parameter,
            "state": self._state,
            "update": lambda t: ast.Update(self._name(t.children[0]), self._expr(t.children[1]), self._loc(t)),
            "output": lambda t: ast.Output(self._expr(t.children[0]), self._optional_name(t.children[1]), self._loc(t)),
            "loss": self._loss,
            "layer": lambda t: ast.Layer(self._name(t.children[0]), self._call(t.children[1]), self._loc(t)),
            "default": self._default,
            "for": self._for,
            "if": self._if,
            "return": lambda t: ast.Return(tuple(map(self._expr, t.children)), self._loc(t)),
            "bad": self._bad,
        }

    def file(self, tree: Any) -> ast.File:
        """The tree of a whole file."""
        return ast.File(self.filename, tuple(self._item(item) for item in tree.children))

    # -- items and statements ------------------------------------------------------------------------------------------
    def _item(self, tree: Any) -> ast.Item:
        if tree.data in ("net", "block"):
            name, formals, body = tree.children
            return ast.Definition(
                str(tree.data), self._name(name), self._formals(formals), self._body(body), self._token_loc(name)
            )
        if tree.data == "import":
            path, name = tree.children
            return ast.Import(str(path)[1:-1], self._optional_name(name), self._loc(tree))
        return self._default(tree) if tree.data == "default" else self._bad(tree)

    def _formals(self, tree: Any) -> tuple[ast.Formal, ...]:
        if tree is None:
            return ()
        formals: list[ast.Formal] = []
        for child in tree.children:
            name, default = child.children
            formal = ast.Formal(self._name(name), None if default is None else self._expr(default))
            if any(formal.name.text == other.name.text for other in formals):
                self._error(f"`{formal.name.text}` stands twice among the parameters", formal.name.loc)
            formals.append(formal)
        return tuple(formals)

    def _body(self, tree: Any) -> tuple[ast.Statement, ...]:
        return tuple(self._statements[child.data](child) for child in tree.children)

    def _parameter(self, tree: Any) -> ast.Parameter:
        name, type_, init, *keywords = tree.children
        return ast.Parameter(
            self._uid(),
            self._name(name),
            self._type(type_),
            None if init is None else self._expr(init),
            self._keywords(keywords),
            self._loc(tree),
        )

    def _state(self, tree: Any) -> ast.State:
        name, type_, init = tree.children
        value = None if init is None else self._expr(init)
        return ast.State(self._uid(), self._name(name), self._type(type_), value, self._loc(tree))

    def _loss(self, tree: Any) -> ast.Loss:
        value, weight, name = tree.children
        return ast.Loss(
            self._uid(),
            self._expr(value),
            None if weight is None else self._expr(weight),
            self._optional_name(name),
            self._loc(tree),
        )

    def _default(self, tree: Any) -> ast.Default:
        name, arguments = tree.children
        positional, keywords = self._arguments(arguments)
        return ast.Default(
            self._uid(), ast.Name(str(name), self._token_loc(name)), positional, keywords, self._loc(tree)
        )

    def _for(self, tree: Any) -> ast.For:
        names, iterable, body = tree.children
        return ast.For(self._names(names), self._expr(iterable), self._body(body), self._loc(tree))

    def _if(self, tree: Any) -> ast.If:
        *pairs, otherwise = tree.children
        branches = tuple(
            (self._expr(condition), self._body(body)) for condition, body in zip(pairs[::2], pairs[1::2], strict=True)
        )
        return ast.If(branches, () if otherwise is None else self._body(otherwise), self._loc(tree))

    def _bad(self, tree: Any) -> ast.Bad:
        names = tree.children[0] if tree.data == "bad" else None
        return ast.Bad(() if names is None else self._names(names), self._loc(tree))

    def _type(self, tree: Any) -> ast.TypeExpr:
        dtype, items = tree.children
        return ast.TypeExpr(str(dtype), self._items(items), self._loc(tree))

    # -- expressions ---------------------------------------------------------------------------------------------------
    def _expr(self, tree: Any) -> ast.Expr:
        return self._expressions[tree.data](tree)

    def _items(self, tree: Any) -> tuple[ast.Expr, ...]:
        return () if tree is None else tuple(map(self._expr, tree.children))

    def _index(self, tree: Any) -> ast.Index:
        base, *indices = map(self._expr, tree.children)
        return ast.Index(base, tuple(indices), self._loc(tree))

    def _number(self, tree: Any) -> ast.Number:
        text = str(tree.children[0])
        exponent = text.lower().partition("e")[2]
        if len(text) > limits.DIGITS or (exponent and abs(int(exponent)) > limits.DIGITS):
            self._error("this number has too many digits", self._loc(tree))
            return ast.Number(Fraction(0), self._loc(tree))
        return ast.Number(Fraction(text), self._loc(tree))

    def _infix(self, tree: Any, parts: list[Any]) -> ast.Infix:
        first, *rest = parts
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return ast.Infix(self._expr(first), tuple((str(op), self._expr(x)) for op, x in pairs), self._loc(tree))

    def _choice(self, tree: Any) -> ast.Choice:
        yes, condition, no = map(self._expr, tree.children)
        return ast.Choice(yes, condition, no, self._loc(tree))

    def _comparison(self, tree: Any) -> ast.Compare:
        left, operator, right = tree.children
        return ast.Compare(str(operator), self._expr(left), self._expr(right), self._loc(tree))

    def _pipeline(self, tree: Any) -> ast.Pipeline:
        head, *steps = tree.children
        return ast.Pipeline(self._expr(head), tuple(self._call(step, piped=True) for step in steps), self._loc(tree))

    def _call(self, tree: Any, piped: bool = False) -> ast.Call:
        path, arguments, label = tree.children
        positional, keywords = self._arguments(arguments)
        callee = tuple(map(str, path.children))
        return ast.Call(
            self._uid(),
            callee,
            self._loc(path),
            positional,
            keywords,
            None if label is None else self._label(label),
            piped,
            self._loc(tree),
        )

    def _label(self, tree: Any) -> ast.Name:
        text = str(tree.children[0]).strip('"')
        loc = self._loc(tree)
        if not text:
            self._error("this label is empty", loc)
        elif not text.isprintable() or any(c in text for c in ".%\\ "):
            self._error(f"`{text}` cannot be a label", loc, "a label holds no dot, space, % or backslash")
        return ast.Name(text, loc)

    def _arguments(self, tree: Any) -> tuple[tuple[ast.Expr, ...], tuple[ast.Keyword, ...]]:
        if tree is None:
            return (), ()
        positional: list[ast.Expr] = []
        keywords: list[Any] = []
        for child in tree.children:
            if child.data == "keyword":
                keywords.append(child)
                continue
            positional.append(self._expr(child))
            if keywords:
                self._error(
                    "an argument without a name stands after one with a name",
                    self._loc(child),
                    "data comes first, then attributes by name",
                )
        return tuple(positional), self._keywords(keywords)

    def _keywords(self, trees: list[Any]) -> tuple[ast.Keyword, ...]:
        keywords: dict[str, ast.Keyword] = {}
        for tree in trees:
            name, value = tree.children
            keyword = ast.Keyword(str(name), self._expr(value), self._loc(tree))
            if keyword.name in keywords:
                self._error(f"`{keyword.name}` is given twice", keyword.loc)
            keywords[keyword.name] = keyword
        return tuple(keywords.values())

    # -- names and places ----------------------------------------------------------------------------------------------
    def _names(self, tree: Any) -> tuple[ast.Name, ...]:
        return tuple(self._name(token) for token in tree.children)

    def _name(self, token: Any) -> ast.Name:
        name = ast.Name(str(token), self._token_loc(token))
        if name.text in RESERVED:
            self._error(f"`{name.text}` is a word of the language and cannot be a name", name.loc)
        elif name.text == "train":
            self._error("`train` is the phase and cannot be bound", name.loc)
        elif name.text in ("True", "False"):
            self._error(f"`{name.text}` cannot be a name", name.loc, did_you_mean(name.text.lower(), ["true", "false"]))
        return name

    def _optional_name(self, token: Any) -> ast.Name | None:
        return None if token is None else self._name(token)

    def _uid(self) -> int:
        self._next_uid += 1
        return self._next_uid

    def _loc(self, tree: Any) -> Loc:
        meta = tree.meta
        if meta.empty:
            return Loc(self.filename, 1, 1)
        return Loc(self.filename, meta.line, meta.column, meta.end_line, meta.end_column)

    def _token_loc(self, token: Any) -> Loc:
        return Loc(self.filename, token.line, token.column, token.end_line, token.end_column)

    def _error(self, message: str, loc: Loc, help: str | None = None) -> None:
        self.errors.append(Diagnostic(message, loc, help=help))
