"""Mending a text that does not parse, so that parsing can go on behind the mistake.

    h = conv(x, , 3)            ->   h <bad>                    the statement binds what it would have bound
    for i in 0..3) { .. }       ->   for i in <bad> { .. }      the body is kept
    block g(x, = 3) { .. }      ->   block g(x=<bad>) { .. }
    if n = 2 { .. }             ->   if <bad> { .. }

``<bad>`` is a NUL, which no source holds.  No row is added or dropped, so lines stay what they are.
"""

from __future__ import annotations

import bisect
import difflib
import re

from concatc.frontend.cnet import parser
from concatc.frontend.cnet.build_ast import RESERVED
from concatc.frontend.cnet.clauses import Clause, Structure

BAD = "\x00"
LOST = "_"  # bound where it is not known what a broken statement or head binds: unknown names may be no mistakes
ITEMS = ("net", "block", "import", "default")
_HEADS = ("for", "if", "else", "elif", "while", "net", "block")
_NAME = re.compile(r"[A-Za-z_]\w*")
_BINDING = re.compile(
    r"^\s*(?:(?:input|param|state|layer)\s+([A-Za-z_]\w*)"
    r"|(?:let\s+|var\s+)?([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s*(?:[-+*/:]?=(?!=)|\+\+|--))"
)


def culprit(structure: Structure, offset: int) -> Clause | None:
    """The clause that an error at ``offset`` is about: the one there, or the one above where that goes on too far."""
    clause = structure.clause_at(offset)
    if clause is None:
        return None
    index = structure.clauses.index(clause)
    above = structure.clauses[index - 1] if index else None
    if above is None or above.ending != "\n":
        return clause
    goes_on = any(above.start <= start < above.end for start in structure.unclosed)
    last = structure.source(above).split()[-1]
    return above if goes_on or last in parser.CONTINUES or last[-1] in "=,+-*/%^<>" else clause


def without_clause(structure: Structure, clause: Clause) -> str | None:
    """The text with the clause replaced by one that parses, or cut out with its body; None where that fails."""
    clause = _past_stray_brace(structure, clause)
    source = structure.source(clause)
    in_item = bool(structure.open_braces(clause.start))
    if BAD in source:
        return _without_body(structure, clause, in_item)
    if clause.ending == "{":
        return _put(structure, clause, _head(structure, clause, in_item))
    word = _NAME.match(source)
    if word is not None and word.group() in (_HEADS if in_item else ("net", "block")):
        return _with_body(structure, clause)
    if not in_item:
        return _outside(structure, clause)
    behind_body = structure.text[: clause.start].rstrip(" \t").endswith("}")
    return _put(structure, clause, (";" if behind_body else "") + _statement(source))


def _past_stray_brace(structure: Structure, clause: Clause) -> Clause:
    """``h = conca{t(a, b)``: the clause up to the end of its row, where its ``{`` opens nothing there."""
    text = structure.text
    if clause.ending != "{":
        return clause
    opening = text.index("{", clause.end)
    end = text.find("\n", opening)
    rest = re.sub(r"#.*", "", text[opening + 1 : end if end >= 0 else len(text)]).rstrip()
    if not rest or rest.count("}") > rest.count("{") or rest == "{":
        return clause
    opens = rest.endswith("{")
    stop = opening + 1 + len(rest) - opens
    return Clause(clause.start, stop, "{" if opens else "\n")


def _put(structure: Structure, clause: Clause, text: str) -> str:
    """The clause replaced; rows are kept, and columns behind it where the new text is no longer than the old."""
    source = structure.source(clause)
    rows = source.count("\n")
    if rows:
        text += "\n" * rows if clause.ending in ("\n", "") else " " * max(len(source) - len(text), 0)
    else:
        text = text.ljust(len(source))
    return structure.text[: clause.start] + text + structure.text[clause.end :]


def _statement(source: str) -> str:
    first = _NAME.match(source)
    word = first.group() if first else ""
    binding = _BINDING.match(source)
    if word == "return" or (binding is None and difflib.get_close_matches(word, ["return"], cutoff=0.7)):
        return f"return {BAD}"
    names = [n.strip() for group in (binding.groups() if binding else ()) if group for n in group.split(",")]
    # Two statements on a row: what the second one binds stands outside of brackets, too.
    bare = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", source))
    names += re.findall(r"(?<=\s)([A-Za-z_]\w*)\s*=(?!=)", bare) if names else []
    if not names and re.match(r"[^(]*(?<![=!<>])=(?!=)", source):
        names = [LOST]
    return ", ".join(n for n in dict.fromkeys(names) if n not in RESERVED) + f" {BAD}"


# -- heads of bodies ---------------------------------------------------------------------------------------------------
def _head(structure: Structure, clause: Clause, in_item: bool) -> str:
    source = structure.source(clause)
    words = _NAME.findall(re.sub(r'"[^"\n]*"?', "", source))
    word = words[0] if words else ""
    if not in_item or word in ("net", "block"):
        return _definition(structure, clause, words)
    if word == "if":
        return f"if {BAD} " if len(source) > 3 else f"if{BAD}"
    if word in ("else", "elif"):
        is_choice = word == "elif" or "if" in words
        return f"else if {BAD} " if is_choice else "else "
    if word == "for":
        second = re.search(r"\s(?=for\s)", source)
        if second is not None:  # its own `{` is missing
            return _head(structure, Clause(clause.start, clause.start + second.start(), "{"), in_item) + (
                "{" + source[second.start() :]
            )
        before, found, _ = source.partition(" in ")
        words = _NAME.findall(before if found else re.split(r"=|\d|\.\.", source)[0])
        if found and not re.fullmatch(r"for\s[\w\s,()]*", before):
            words.append(LOST)
    names = [w for w in dict.fromkeys(words) if w not in RESERVED]
    return f"for {', '.join(names) or LOST} in {BAD} "


def _definition(structure: Structure, clause: Clause, words: list[str]) -> str:
    """The head of a net or block, with those of its parameters that parse."""
    source = structure.source(clause)
    opening = structure.text.find("{", clause.end)
    body = structure.text[clause.end : structure.body_end(opening) if opening >= 0 else None]
    kind = words[0] if words else ""
    if kind not in ("net", "block"):
        near = difflib.get_close_matches(kind, ["net", "block"], n=1, cutoff=0.6)
        returns = re.search(r"^\s*return\b", body, re.M)
        kind = near[0] if near else "block" if returns else "net"
    head, bracket, rest = source.partition("(")
    named = _NAME.findall(head)[1:]
    formals = [f for f in dict.fromkeys(map(_formal, _split(rest))) if f] if bracket else []
    if not bracket or any(not re.match(r"\s*\w*\s*(?:=|$)", part) for part in _split(rest)):
        formals.append(f"{LOST}={BAD}")
    name = named[0] if named and named[0] not in RESERVED else LOST
    lost = "" if re.fullmatch(r"\w+\s+\w+\s*", head) else f"{BAD};"
    return f"{lost}{kind} {name}({', '.join(formals)}) "


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets, up to the bracket that closes them all."""
    parts = [""]
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _formal(part: str) -> str:
    """A parameter of a net or block: as it stands where it parses, else its name alone."""
    name = _NAME.search(part)
    if name is None or name.group() in RESERVED:
        return ""
    equals = part.partition("=")[2].strip()
    if re.fullmatch(r"\s*[A-Za-z_]\w*\s*=\s*(?:\d+(?:\.\d+)?|\"[^\"\n]*\"|true|false)\s*", part):
        return f"{name.group()}={equals}"
    return f"{name.group()}={BAD}"


def _with_body(structure: Structure, clause: Clause) -> str | None:
    """The head of a body that lacks its ``{``: it gets one, and a ``}`` where the body by its indent ends."""
    text = structure.text
    behind = re.match(r"\s*\{", text[clause.end :])
    if behind:  # on a row of its own
        gap = behind.group()
        return text[: clause.end] + " {" + gap[:-1] + " " + text[clause.end + len(gap) :]
    indent = structure.indent_at(clause.start)
    body = []
    for inner in _behind(structure, clause):
        if structure.indent_at(inner.start) <= indent:
            break
        body.append(inner)
    source = structure.source(clause)
    if ":" in source or not body:  # `for i in 0..2: x = relu(x)`
        rest = source.partition(":")[2]
        simple = _statement(rest.lstrip()).removesuffix(f" {BAD}") if rest.strip() else ""
        if not body:
            names = simple if simple and not simple.startswith("return") else ""
            return _put(structure, clause, f"{names} {BAD}")
    opened = _head(structure, Clause(clause.start, clause.end, "{"), True) + "{" + "\n" * source.count("\n")
    last = body[-1].end + _closing_braces(text, body[-1].end, indent)
    closes = re.match(r"[ \t]*(?:#[^\n]*)?(?:\n[ \t]*(?:#[^\n]*)?)*\n([ \t]*)\}", text[last:])
    end = "" if closes and len(closes.group(1)) == indent else " }"
    return text[: clause.start] + opened + text[clause.end : last] + end + text[last:]


def _closing_braces(text: str, offset: int, indent: int) -> int:
    """How far the ``}`` behind ``offset`` reach that stand deeper than ``indent``."""
    length = 0
    for match in re.finditer(r"(?:[ \t]*(?:#[^\n]*)?\n)*([ \t]*)\}", text[offset:]):
        if match.start() != length or ("\n" in match.group() and len(match.group(1)) <= indent):
            break
        length = match.end()
    return length


# -- larger cuts -------------------------------------------------------------------------------------------------------
def _without_body(structure: Structure, clause: Clause, in_item: bool) -> str | None:
    """The text without a clause that was mended in vain, and without its body."""
    end: int | None = clause.end
    if clause.ending == "{":
        end = structure.body_end(structure.text.index("{", clause.end))
    if end is None or structure.source(clause).strip(" ;") == BAD:
        return None
    rows = structure.text.count("\n", clause.start, end)
    return structure.text[: clause.start] + BAD + "\n" * rows + structure.text[end:]


def _behind(structure: Structure, clause: Clause) -> list[Clause]:
    """The clauses behind a clause."""
    return structure.clauses[bisect.bisect_left([c.start for c in structure.clauses], clause.end) :]


def _outside(structure: Structure, clause: Clause) -> str:
    """The text without what stands outside of nets and blocks, up to the next item."""
    word = _NAME.match(structure.source(clause))
    end = clause.end
    if word is None or word.group() not in ITEMS:
        items = [c.start for c in _behind(structure, clause) if structure.source(c).split()[0] in ITEMS]
        end = items[0] if items else len(structure.text)
    rows = structure.text.count("\n", clause.start, end)
    end -= len(structure.text[clause.start : end]) - len(structure.text[clause.start : end].rstrip()) if rows else 0
    rows = structure.text.count("\n", clause.start, end)
    lost = "" if word is not None and word.group() == "default" else BAD
    return structure.text[: clause.start] + lost + "\n" * rows + structure.text[end:]


def blank(text: str, start: int, end: int) -> str:
    """The text with a stretch replaced by blanks, rows kept."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
