"""What stands in a result before it is added to: read by a jump, only where it is added to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from concatc.cli.main import exit_code

NET = """
net t(n = 2) {
    input x: f32[n, 3, 14, 14]
    z = x |> max_pool(3, stride=1, pad=1)
    output z
}
"""


def test_a_row_does_not_wait_for_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of 14 elements in vectors of 16: a load of the next row's old elements, mask off or not, meets the store."""
    (tmp_path / "t.cnet").write_text(NET, encoding="utf-8")
    assert exit_code(["compile", str(tmp_path / "t.cnet"), "--phase", "infer", "--emit", "llvm"]) == 0
    text = capsys.readouterr().out
    stores = re.findall(r"@llvm\.masked\.store\.v\d+f32\S*\(<.*?>.*?, ptr align 4 (%\S+), .*", text)
    if not stores:
        assert "llvm.masked" not in text  # vectors without masks
        return
    for pointer in stores:
        loads = [m.start() for m in re.finditer(rf"masked\.load\.\S*\(ptr align 4 {re.escape(pointer)},", text)]
        assert loads, "what is stored is added to where the flag says so"
        for at in loads:
            label = re.findall(r"^(\S+):", text[:at], re.MULTILINE)[-1]
            assert re.search(rf"br i1 %\S+, label %{re.escape(label)}, ", text), f"{label} is not jumped to"
            assert text.count("masked.load", text.index(f"\n{label}:"), text.index("br label", at)) == 1
