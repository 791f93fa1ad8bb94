"""Data files that are damaged, or made to do harm: one message each, and no memory for what is not there."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from concatc.cli.main import exit_code
from concatc.cli.npz import NpzFile
from concatc.diagnostics import UsageError


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


DAMAGED = {
    "huge": (npy(described("<f4", "(1000000000000000,)")), "takes 4000000000000000 bytes, but it holds 0"),
    "overflowing": (npy(described("<f4", f"({2**62}, 4)")), f"takes {2**66} bytes"),
    "negative": (npy(described("<f4", "(-3,)"), b"abcd" * 3), "it has the shape [-3]"),
    "short": (npy(described("<f4", "(2, 3)"), b"abcd"), "takes 24 bytes, but it holds 4"),
    "long": (npy(described("<f4", "(1,)"), b"abcdefgh"), "takes 4 bytes, but it holds 8"),
    "object": (npy(described("|O", "(1,)"), b"abcd"), "it holds object, no numbers"),
    "text": (npy(described("<U1", "(1,)"), b"abcd"), "it holds <U1, no numbers"),
    "no dtype": (npy(described("zz", "(1,)"), b"abcd"), "descr is not a valid dtype descriptor"),
    "deep": (npy("(" * 2000), "its header is no description"),
    "deep minus": (npy("-" * 9000 + "1"), "`x`: "),
    "no npy": (b"hello", "`x`: "),
    "empty": (b"", "`x`: "),
    "version": (b"\x93NUMPY\x09\x00", "its version 9.0"),
}


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", content)
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_array_is_one_message(tmp_path: Path, name: str) -> None:
    content, message = DAMAGED[name]
    path = archive(tmp_path / "in.npz", content)
    with pytest.raises(UsageError) as caught:
        NpzFile(path)["x"]
    head = f"`x` of {path}: " if name == "text" else f"{path} is no .npz file of arrays: `x`: "
    assert str(caught.value).startswith(f"error: {head}")
    assert message in str(caught.value)


def test_a_member_that_claims_more_than_the_file_can_hold(tmp_path: Path) -> None:
    path = archive(tmp_path / "in.npz", npy(described("<f4", "(1000000000,)"), b"abcd"), zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        size = struct.pack("<I", file.getinfo("x.npy").file_size)
    header = len(npy(described("<f4", "(1000000000,)")))
    start = data.rindex(size)
    path.write_bytes(data[:start] + struct.pack("<I", header + 4 * 10**9 % 2**32) + data[start + 4 :])
    with pytest.raises(UsageError, match="it claims to hold more than the file can"):
        NpzFile(path)["x"]


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "in.npz", npy(described("<f4", "(1,)"), b"abcd"), zipfile.ZIP_LZMA)
    with pytest.raises(UsageError, match="its compression"):
        NpzFile(path)["x"]


def test_no_byte_of_a_file_makes_another_error(tmp_path: Path) -> None:
    """Every byte of a small compressed file, changed in two ways: an array comes back, or one message."""
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, x=np.random.default_rng(0).normal(size=(2, 3)))
    data = whole.read_bytes()
    path = tmp_path / "in.npz"
    refused = 0
    for at in range(len(data)):
        for change in (0xFF, 0x01):
            path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            try:
                for array in NpzFile(path).values():
                    assert array.nbytes <= 48
            except UsageError:
                refused += 1
    assert refused > len(data) // 2


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|b1", "<c16", "<f2", "|u1"])
def test_arrays_come_back_as_numpy_wrote_them(tmp_path: Path, dtype: str) -> None:
    rows = np.arange(12).reshape(3, 4).astype(dtype)
    arrays = {"rows": rows, "columns": np.asfortranarray(rows), "one": rows[0, 1], "none": rows[:0]}
    np.savez(tmp_path / "in.npz", **arrays)
    read = NpzFile(tmp_path / "in.npz")
    assert list(read) == list(arrays) and len(read) == 4
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].flags.writeable
        np.testing.assert_array_equal(read[name], array, strict=True)
    large = np.random.default_rng(0).normal(size=(3, 100_003))
    np.savez_compressed(tmp_path / "large.npz", x=large)
    np.testing.assert_array_equal(NpzFile(tmp_path / "large.npz")["x"], large)


def test_only_what_the_net_takes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.cnet").write_text("net f(n = 2) {\n    input x: f32[n, 3]\n    output relu(x) as y\n}\n")
    np.savez("in.npz", x=np.ones((2, 3)), notes=np.array([{"a": 1}], dtype=object))
    command = ["run", "f.cnet", "--data", "in.npz", "--target", "reference"]
    assert exit_code(command) == 0
    archive(Path("in.npz"), npy("(" * 2000))
    assert exit_code(command) == 2
    assert "in.npz is no .npz file of arrays" in capsys.readouterr().err
    Path("in.npz").write_bytes(npy(described("<f4", "(1,)"), b"abcd"))
    assert exit_code(command) == 2
    assert "holds one array" in capsys.readouterr().err
