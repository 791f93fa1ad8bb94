"""Malformed sources and what the compiler says about each: `tests/errors/*.txt`.

A case is a title, a source, further files (`+++ name`), and the message:

    === a title
    net f(n = 2) { .. }
    +++ other.cnet
    ..
    ---
    case.cnet:1:1: error: ..

`pytest tests/test_errors.py --update-pinned` writes the messages of now and shows what changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from concatc.diagnostics import ConcatcError
from concatc.frontend.cnet import load, load_file

ERRORS = Path(__file__).parent / "errors"
TITLE = re.compile(r"^=== (.*)\n", re.M)


@dataclass
class Case:
    file: Path
    title: str
    source: str
    files: dict[str, str]
    message: str


def cases_of(file: Path) -> list[Case]:
    _, *parts = TITLE.split(file.read_text(encoding="utf-8"))
    cases = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        sources, _, message = body.partition("---\n")
        source, *others = re.split(r"^\+\+\+ (.*)\n", sources, flags=re.M)
        cases.append(Case(file, title, source, dict(zip(others[::2], others[1::2], strict=True)), message.strip("\n")))
    return cases


def write(case: Case, message: str) -> None:
    text = case.file.read_text(encoding="utf-8")
    start = text.index(f"=== {case.title}\n")
    end = text.find("\n=== ", start)
    end = len(text) if end < 0 else end + 1
    sources = text[start:end].partition("---\n")[0].rstrip("\n") + "\n"
    case.file.write_text(f"{text[:start]}{sources}---\n{message}\n\n{text[end:]}".rstrip("\n") + "\n", encoding="utf-8")


CASES = [case for file in sorted(ERRORS.glob("*.txt")) for case in cases_of(file)]


def report(source: str) -> str:
    """All that the compiler says about a source; of both phases, each message once."""
    said: list[str] = []
    for phase in ("train", "infer"):
        try:
            _, warnings = load(source, "case.cnet", phase=phase)  # type: ignore[arg-type]
            said += [w.render({"case.cnet": source}) for w in warnings]
        except ConcatcError as error:
            said += [d.render(error.sources) for d in error.diagnostics]
    return "\n".join(dict.fromkeys(said))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.file.stem}: {c.title}")
def test_message(
    case: Case, pinned: Callable[[str, str, str], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "case").mkdir()
    for name, text in case.files.items():
        (tmp_path / "case" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "case" / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "case")
    actual = report(case.source)
    assert actual, "this source is correct"
    if pinned(case.title, case.message, actual):
        write(case, actual)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({(c.file, c.title) for c in CASES}) == len(CASES)


# -- sources that are too large, too deep or no text -------------------------------------------------------------------
def fails(source: str | bytes, tmp_path: Path) -> str:
    path = tmp_path / "case.cnet"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(ConcatcError) as caught:
        load_file(path)
    return str(caught.value).replace(str(path), "case.cnet")


def test_ten_megabytes_end_in_a_clear_error(tmp_path: Path) -> None:
    message = fails("net f(n = 1) {\n" + "    x = f(x)  # again\n" * 500_000 + "}\n", tmp_path)
    assert message.startswith("error: case.cnet holds 11.00 MB; a source file may hold 250 kB")


@pytest.mark.parametrize(
    "opening, closing", [("(", ")"), ("[", "]"), ("f(", ")"), ("- ", ""), ("not ", ""), ("2 ^ ", "")]
)
def test_twenty_thousand_nested_brackets(opening: str, closing: str, tmp_path: Path) -> None:
    message = fails(f"net f(n = 1) {{\n    x = {opening * 20_000}n{closing * 20_000}\n}}\n", tmp_path)
    assert "case.cnet:2:" in message
    assert "more than 64 brackets or operators are nested here" in message


def test_twenty_thousand_nested_bodies(tmp_path: Path) -> None:
    message = fails("net f(n = 1) {\n" + "if true {\n" * 20_000 + "}\n" * 20_001, tmp_path)
    assert "more than 64 brackets or operators are nested here" in message


def test_long_flat_sources_are_no_problem(tmp_path: Path) -> None:
    chain = " + ".join(["n"] * 5_000)
    source = f"net f(n = 1) {{\n    input x: f32[n]\n    k = {chain}\n    output x as y\n}}\n"
    path = tmp_path / "case.cnet"
    path.write_text(source)
    load_file(path)
    path.write_text(source.replace(chain, "[n]" + "[0][0]" * 5_000))
    with pytest.raises(ConcatcError, match="the number 1 has no items"):
        load_file(path)
    branches = "".join(f"else if n == {k} {{ m = {k} }} " for k in range(1000))
    path.write_text(
        f"net f(n = 1) {{\n    input x: f32[n]\n    if n == -1 {{ m = 0 }} {branches}\n    output x as y\n}}\n"
    )
    load_file(path)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    message = fails(b"net f(n = 1) {\n    # caf\xe9\n}\n", tmp_path)
    assert message == "case.cnet:2:10: error: byte 0xe9 is not UTF-8\nhelp: save the file as UTF-8"


def test_a_nul_byte(tmp_path: Path) -> None:
    message = fails(b"net f(n = 1) {\n\x00}\n", tmp_path)
    assert message.startswith("case.cnet:2:1: error: a NUL byte stands in the source")


def test_a_byte_order_mark_and_crlf_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "case.cnet"
    path.write_bytes(b"\xef\xbb\xbfnet f(n = 1) {\r\n    input x: f32[n]\r\n    output x as y\r\n}\r\n")
    module, _ = load_file(path)
    assert module.main.loc is not None and (module.main.loc.line, module.main.loc.column) == (1, 5)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConcatcError, match="cannot be read: No such file or directory"):
        load_file(tmp_path / "nothing.cnet")


def test_long_chains_of_blocks_with_deep_bodies(tmp_path: Path) -> None:
    deep = 40
    blocks = "".join(
        f"block b{k}(x) {{\n{'if true {' * deep} x = b{k + 1}(x) {'}' * deep}\nreturn x }}\n" for k in range(100)
    )
    source = blocks + "block b100(x) { return x }\nnet f(n = 1) {\n    input x: f32[n]\n    output b0(x) as y\n}\n"
    assert "too many blocks call each other here" in fails(source, tmp_path)


def test_deep_nesting_within_the_limits_is_no_crash(tmp_path: Path) -> None:
    block = "block b{k}(x) {{ return {open}b{next}(x){close} }}\n"
    blocks = "".join(block.format(k=k, next=k + 1, open="[" * 30, close="]" * 30 + "[0]" * 30) for k in range(30))
    source = blocks + "block b30(x) { return x }\nnet f(n = 1) {\n    input x: f32[n]\n    output b0(x) as y\n}\n"
    assert "blocks and expressions are nested too deeply here" in fails(source, tmp_path)
