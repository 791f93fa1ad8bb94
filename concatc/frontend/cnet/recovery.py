"""Going on behind a syntax error, so that one run reports them all.

h = conv(x, , 3)        ->  error: unexpected `,`          the statement becomes  h = <bad>  and h is not used to
g = relu(h)                                                report errors that follow from this one

One error is found at a time; the text is mended (:mod:`repair`) and parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import ConcatcError, Diagnostic, Loc
from concatc.frontend.cnet import limits, parser, repair, syntax_errors
from concatc.frontend.cnet.clauses import Brace, Structure
from concatc.frontend.cnet.syntax_errors import token_loc

_COMMENT = re.compile(r"//|/\*|--|;|<!--|%|\"\"\"|'''")
_WORDS = re.compile(r"[\w ,.:;'\"!?()/*=+-]*")


@dataclass(frozen=True)
class _Found:
    """What is wrong, and the text without it; None where nothing can be mended."""

    diagnostics: list[Diagnostic]
    text: str | None


@dataclass(frozen=True)
class _Failure:
    """Where parsing stopped: lark's error, the offset, and the brackets that were open there."""

    error: Any
    offset: int
    open_brackets: list[Any]
    structure: Structure
    filename: str

    @property
    def in_body(self) -> bool:
        """Whether a brace is open before the place."""
        token = getattr(self.error, "token", None)
        return any(str(b) == "{" and b is not token for b in self.open_brackets)

    def loc(self, start: int, end: int) -> Loc:
        """A stretch of the text."""
        s = self.structure
        return Loc(self.filename, s.line_of(start), s.column_of(start), s.line_of(end), s.column_of(end))


def parse_with_recovery(text: str, filename: str) -> tuple[Any, list[Diagnostic]]:
    """lark's tree, and the syntax errors in order.  Raises :class:`ConcatcError` where no tree can be made."""
    errors: list[Diagnostic] = []
    current = text
    parsed = 0
    for _ in range(3 * limits.SYNTAX_ERRORS):
        parsed += len(text)
        tree, failure = _parse_once(current, filename)
        if failure is None:
            return tree, _in_order(errors)
        found = _diagnose(failure)
        errors += (d for d in found.diagnostics if d not in errors)
        give_up = len(errors) >= limits.SYNTAX_ERRORS or parsed + len(text) > limits.RECOVERY_BYTES
        if found.text is None or found.text == current or give_up:
            break
        current = found.text
    raise ConcatcError(_in_order(errors), {filename: text})


def _in_order(errors: list[Diagnostic]) -> list[Diagnostic]:
    return sorted(errors, key=lambda d: (d.loc.line, d.loc.column) if d.loc else (0, 0))


def _parse_once(text: str, filename: str) -> tuple[Any, _Failure | None]:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    found: Any
    offset: Any
    try:
        return parser.parse_tree(text), None
    except parser.NestingError as error:
        found, offset = error, error.token.start_pos
    except UnexpectedCharacters as error:
        found, offset = error, error.pos_in_stream
    except UnexpectedToken as error:
        found, offset = error, error.token.start_pos
        if error.token.type == "$END":
            offset = len(text)
    return None, _Failure(found, offset, parser.open_brackets(), Structure(text), filename)


def _diagnose(failure: _Failure) -> _Found:
    finders: tuple[Callable[[_Failure], _Found | None], ...] = (
        _deep_nesting,
        _foreign_comment,
        _unclosed_bracket,
        _stray_brace,
        _missing_brace,
        _brace_too_many,
    )
    for finder in finders:
        found = finder(failure)
        if found is not None:
            return found
    return _plain_error(failure)


def _plain_error(failure: _Failure) -> _Found:
    structure, error = failure.structure, failure.error
    clause = repair.culprit(structure, failure.offset)
    if clause is not None and clause.end < failure.offset and clause != structure.clause_at(failure.offset):
        line, text = structure.line_of(clause.end - 1), structure.text
        loc = syntax_errors.line_end(text, failure.filename, line)
        diagnostic = Diagnostic("the line ends too early", loc, ("expected an expression",))
    elif hasattr(error, "token"):
        diagnostic = syntax_errors.at_token(structure.text, failure.filename, error, failure.open_brackets)
    else:
        diagnostic = syntax_errors.at_character(structure.text, failure.filename, error)
    if clause is None:
        return _Found([diagnostic], None)
    mended = repair.without_clause(structure, clause)
    # A clause that was mended in vain was reported then.
    return _Found([] if repair.BAD in structure.source(clause) else [diagnostic], mended)


def _deep_nesting(failure: _Failure) -> _Found | None:
    if not isinstance(failure.error, parser.NestingError):
        return None
    token = failure.error.token
    message = f"more than {limits.NESTING} brackets or operators are nested here"
    diagnostic = Diagnostic(message, token_loc(failure.filename, token), help="name the inner parts")
    clause = failure.structure.clause_at(failure.offset)
    in_body = bool(failure.structure.open_braces(failure.offset))
    mended = repair.without_clause(failure.structure, clause) if clause is not None and in_body else None
    return _Found([diagnostic], None if str(token) == "{" else mended)


# -- comments ----------------------------------------------------------------------------------------------------------
def _foreign_comment(failure: _Failure) -> _Found | None:
    """``// words``, ``/* words */``, ``-- words``: a comment of another language, at the place or before it."""
    structure, offset = failure.structure, min(failure.offset, len(failure.structure.text) - 1)
    line = structure.line_of(offset)
    row_start = structure.offset_of(line, 1)
    row = structure.rows[line - 1]
    for match in _COMMENT.finditer(row):
        start = row_start + match.start()
        if start > offset or '"' in row[: match.start()]:
            break
        sign = match.group()
        opens_row = not row[: match.start()].strip() or (start == offset and sign in ("//", "/*", "--", "%"))
        between = structure.text[start + len(sign) : offset]
        words = row[match.end() :]
        if not opens_row and not _reads_as_words(sign, row[match.start() - 1], words, between):
            continue
        if opens_row and sign in ("--", ";", "%") and not re.match(r"[-;%]*\s*[A-Za-z][\w',.:]*(\s|$)", words):
            continue
        closing = {"/*": "*/", "<!--": "-->", '"""': '"""', "'''": "'''"}.get(sign)
        end = row_start + len(row)
        if closing is not None:
            found = structure.text.find(closing, start + len(sign))
            end = found + len(closing) if found >= 0 else len(structure.text)
        text = repair.blank(structure.text, start, end)
        rows, more = ([], 0) if sign not in ("//", "--", ";", "%") else _more_comments(structure, sign, line)
        for k in rows:
            text = repair.blank(text, structure.offset_of(k, 1), structure.offset_of(k, 1) + len(structure.rows[k - 1]))
        notes = (f"{more} more {'lines start' if more > 1 else 'line starts'} with `{sign}`",) if more else ()
        loc = failure.loc(start, start + len(sign))
        return _Found([Diagnostic(f"`{sign}` starts no comment", loc, notes, "a comment starts with `#`")], text)
    return None


def _reads_as_words(sign: str, before: str, words: str, between: str) -> bool:
    """Whether what follows a sign behind a statement is prose: at least two words before anything else."""
    if before not in " \t" or not _WORDS.fullmatch(words):
        return False
    if sign in ("/*", "<!--"):
        return True
    return sign != "%" and re.fullmatch(r"\s*[A-Za-z][\w'.,:]*\s+", between) is not None


def _more_comments(structure: Structure, sign: str, line: int) -> tuple[list[int], int]:
    """Further rows that start with the sign: comments too."""
    rows = [k for k, row in enumerate(structure.rows, 1) if k > line and row.lstrip().startswith(sign)]
    return rows, len(rows)


# -- brackets and braces -----------------------------------------------------------------------------------------------
def _unclosed_bracket(failure: _Failure) -> _Found | None:
    """A ( or [ that nothing closes, where parsing stopped at the next statement or at a brace."""
    structure = failure.structure
    token = getattr(failure.error, "token", None)
    still_open = [b for b in failure.open_brackets if b is not token and str(b) in "(["]
    unclosed = [b for b in still_open if b.start_pos in structure.unclosed]
    if not unclosed:
        return None
    bracket = unclosed[-1]
    clause = structure.clause_at(bracket.start_pos)
    assert clause is not None
    at_end = failure.offset >= clause.end or (token is not None and str(token) in ("{", "}"))
    if not at_end:
        return None
    diagnostic = Diagnostic(f"this `{bracket}` is never closed", token_loc(failure.filename, bracket))
    return _Found([diagnostic], repair.without_clause(structure, clause))


def _stray_brace(failure: _Failure) -> _Found | None:
    """A ``{`` where a statement should start: a body of nothing.  It goes, and with it the ``}`` that matches."""
    structure = failure.structure
    token = getattr(failure.error, "token", None)
    if token is None or str(token) != "{" or "_LOSS" not in set(failure.error.accepts or failure.error.expected):
        return None
    help = "a body stands behind `net`, `block`, `for`, `if` or `else`"
    diagnostic = Diagnostic("unexpected `{`", token_loc(failure.filename, token), help=help)
    text = structure.text
    run = re.match(r"[{\s]*", text[failure.offset :])
    assert run is not None
    for k in range(run.end()):
        if text[failure.offset + k] == "{":
            end = structure.body_end(failure.offset + k)
            text = repair.blank(text, failure.offset + k, failure.offset + k + 1)
            text = text if end is None else repair.blank(text, end - 1, end)
    return _Found([diagnostic], text)


def _missing_brace(failure: _Failure) -> _Found | None:
    """The file ends, or the next net or block starts, inside of a body."""
    structure = failure.structure
    token = getattr(failure.error, "token", None)
    if token is None or not failure.in_body:
        return None
    is_item = str(token) in ("net", "block") and re.match(r"\s+[A-Za-z_]\w*\s*\(", structure.text[token.end_pos :])
    if token.type != "$END" and not is_item:
        return None
    forgotten = structure.forgotten_braces(failure.offset)
    text = structure.text
    for _, offset in sorted(forgotten, key=lambda pair: -pair[1]):
        text = f"{text[:offset]} }}{text[offset:]}"
    return _Found([_never_closed(failure, brace) for brace, _ in forgotten], text)


def _never_closed(failure: _Failure, brace: Brace) -> Diagnostic:
    return Diagnostic("this `{` is never closed", failure.loc(brace.start, brace.start + 1))


def _brace_too_many(failure: _Failure) -> _Found | None:
    """A ``}`` where no body is open, or, by its indent, one above that closed a net or block too early."""
    structure = failure.structure
    token = getattr(failure.error, "token", None)
    if token is None or failure.in_body or "_NET" not in set(failure.error.accepts or failure.error.expected):
        return None
    early = structure.early_brace(failure.offset)
    if early is not None and str(token) != "net":
        offset, brace = early
        note = f"by its indent it does not belong to the `{{` of line {brace.line}, which it closes"
        diagnostic = Diagnostic("one `}` too many", failure.loc(offset, offset + 1), (note,))
        return _Found([diagnostic], repair.blank(structure.text, offset, offset + 1))
    if str(token) != "}":
        return None
    diagnostic = Diagnostic("this `}` closes nothing", token_loc(failure.filename, token))
    run = re.match(r"[}\s]*", structure.text[failure.offset :])
    assert run is not None
    return _Found([diagnostic], repair.blank(structure.text, failure.offset, failure.offset + run.end()))
