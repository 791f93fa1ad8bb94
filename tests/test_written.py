"""Written modules run from data: what they read, compute and take, and what is wrong in damaged data."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.ir.levels import LEVELS
from concatc.runtime.runnable import data_of, from_data
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table
from concatc.targets.cpu.step_text import read_table, table_text
from tests.test_artifact import copy_of, error_of

ROOT = Path(__file__).resolve().parent.parent
NET = """
net mixed(n = 4, classes = 3) {
    input x: f32[n, 2, 4, 4]
    input ids: i32[n, 2]
    input label: i32[n]
    h = x |> conv(4, kernel=3, pad=1, bias=false) |> batch_norm |> relu
    g = concat(x, h, axis=1) |> dropout(0.25) |> global_avg_pool |> flatten
    p, q = slice(ids, axis=1, sizes=[1, 1])
    e = reshape(p, [n]) |> embedding(5, dim=3)
    y = concat(g, e, axis=1) |> linear(classes, weight_lr=2, weight_decay=0.5)
    loss softmax_loss(y, label) weight 0.75 as main
    loss mean(square(y)) as small
    output y
}
"""
OPTIONS = Options(keep=("h",), input_grads=True, output_grads=("y",))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "mixed"
    write_module(compile_net(NET, "mixed.cnet", OPTIONS), directory)
    return directory


def pair(directory: Path) -> tuple[concatc.CompiledModule, concatc.CompiledModule]:
    """The net as it is compiled, and as it is loaded."""
    compiled = concatc.compile_source(NET, filename="mixed.cnet", keep=["h"], input_grads=True, output_grads=["y"])
    return compiled, concatc.load(directory)


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(4, 2, 4, 4)).astype(np.float32),
        "ids": rng.integers(0, 5, (4, 2)).astype(np.int32),
        "label": rng.integers(0, 3, 4).astype(np.int32),
    }


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_loaded_module_computes_the_same_bits(written: Path) -> None:
    compiled, loaded = pair(written)
    for net in (compiled, loaded):
        net.init(seed=5)
        net.loss_weights["small"] = 0.5
    assert same(loaded.params, compiled.params) and same(loaded.states, compiled.states)
    grad = {"y": np.full((4, 3), 0.1, np.float32)}
    for seed in range(2):
        assert same(loaded.forward(batch(seed)), compiled.forward(batch(seed)))
        assert same(loaded.backward(output_grads=grad), compiled.backward(output_grads=grad))
    assert np.array_equal(loaded.blobs["h"].data, compiled.blobs["h"].data)
    assert np.array_equal(loaded.blobs["h"].grad, compiled.blobs["h"].grad)
    assert same(loaded.states, compiled.states)
    assert same(loaded.eval(batch()), compiled.eval(batch()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: concatc.SGD(0.1),
        lambda: concatc.SGD(0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda: concatc.Adam(0.01),
    ],
    ids=["sgd", "nesterov", "adam"],
)
def test_optimizers_update_a_loaded_module(
    written: Path, tmp_path: Path, make: Callable[[], concatc.Optimizer]
) -> None:
    nets = pair(written)
    optimizers = [make(), make()]
    for net, optimizer in zip(nets, optimizers, strict=True):
        net.init(seed=1)
        for seed in range(3):
            net.train_step(batch(seed), optimizer=optimizer)
        net.forward(batch())
        net.backward()
        net.step(optimizer)
        net.save(tmp_path / f"{net is nets[0]}.safetensors", optimizer=optimizer)
    compiled, loaded = nets
    assert same(loaded.params, compiled.params)
    again, optimizer = concatc.load(written), make()
    again.load(tmp_path / "True.safetensors", optimizer=optimizer)
    for net, used in ((compiled, optimizers[0]), (loaded, optimizers[1])):
        net.load(tmp_path / "False.safetensors", optimizer=used)
    steps = [
        net.train_step(batch(7), optimizer=o) for net, o in zip((*nets, again), (*optimizers, optimizer), strict=True)
    ]
    assert steps[0] == steps[1] and steps[2]["main"] != steps[0]["main"]  # another number of steps: other dropout masks


def test_levels_memory_and_kernels_are_those_of_the_compiled_net(written: Path) -> None:
    compiled, loaded = pair(written)
    for phase in ("train", "infer"):
        for level in LEVELS:
            assert loaded.ir(level, phase=phase) == compiled.ir(level, phase=phase), (level, phase)
    assert loaded.ir("graph", blob="h") == compiled.ir("graph", blob="h")
    assert str(loaded.memory) == str(compiled.memory)
    assert loaded.kernels == compiled.kernels
    with pytest.raises(KeyError, match="are reused within a step"):
        _ = loaded.blobs["g"]


def test_labels_and_indices_are_checked_as_in_the_compiled_net(written: Path) -> None:
    messages = []
    wrong = batch()
    wrong["ids"][2] = [9, 77]  # the second is not read
    wrong["label"][1] = -2
    for net in pair(written):
        with pytest.raises(concatc.UsageError) as caught:
            net.forward(wrong)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "input `ids` holds 9 at [2, 0]" in messages[0] and "mixed.cnet:9" in messages[0]


SCRIPT = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import concatc
net = concatc.load({directory!r})
unwanted = [n for n in sys.modules if n.split(".")[0] in ("lark", "numba")]
unwanted += [n for n in sys.modules if n.startswith(("concatc.compiler", "concatc.frontend", "concatc.passes",
             "concatc.ops", "concatc.op", "concatc.ir.parser", "concatc.inspect", "concatc.targets.cpu.units"))]
import numpy as np
x, ids, label = np.ones((4, 2, 4, 4), np.float32), np.ones((4, 2), np.int32), np.zeros(4, np.int32)
net.forward(x=x, ids=ids, label=label)
net.backward()
net.train_step(x=x, ids=ids, label=label)
net.eval(x=x, ids=ids)
unwanted += [n for n in sys.modules if n.split(".")[0] in ("lark", "numba")]
print(unwanted, [name for name in opened if name.endswith((".mlir", "kernels.py"))])
net.ir("joint")
print([name.rsplit("/", 2)[1:] for name in opened if name.endswith(".mlir")])
"""


def test_loading_and_running_read_no_level(written: Path) -> None:
    script = SCRIPT.format(directory=str(written))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[] []\n[['train', 'joint.mlir']]\n", done.stderr


# A chain of 32 concats takes at most 12 MiB more than one of a single layer: 11.3 are planned, so 0.7 are left for
# everything else that grows.  Each peak is that of a whole process; those of one module differ by some 0.2 MiB.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is read from /proc")
def test_a_written_chain_of_concats_takes_its_plan_and_little_more(tmp_path: Path) -> None:
    peaks: dict[int, list[int]] = {1: [], 32: []}
    for layers in peaks:
        path = ROOT / "examples" / "nets" / "growing.cnet"
        options = Options(dims={"layers": layers})
        write_module(compile_net(path.read_text(), "growing.cnet", options), tmp_path / f"growing{layers}")
    for _ in range(5):
        for layers, found in peaks.items():
            command = [sys.executable, "-m", "benchmarks.fresh", str(tmp_path / f"growing{layers}")]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout)
            assert result["imported"] == []
            found.append(result["peak_bytes"])
    grown = statistics.median(peaks[32]) - statistics.median(peaks[1])
    assert grown <= 12 << 20, peaks


def test_data_gives_back_what_a_phase_says() -> None:
    compilation = compile_net(NET, "mixed.cnet", OPTIONS)
    for phase in compilation.phases:
        lowering = compilation.phase(phase)
        read = from_data(json.loads(json.dumps(data_of(lowering))))
        assert read.signature == lowering.signature
        assert (read.interface.slots, read.interface.bases) == (lowering.interface.slots, lowering.interface.bases)
        assert read.arena_bytes == lowering.arena_bytes
        for mine, other in zip(read.index_checks, lowering.index_checks, strict=True):
            assert (mine.kind, mine.name, mine.extent, mine.ignored) == (
                other.kind,
                other.name,
                other.extent,
                other.ignored,
            )
            assert np.array_equal(mine.positions, other.positions) and mine.loc == other.loc
        table = step_table(lowering.loops)
        symbols = {row.kernel: f"symbol of {row.kernel}" for row in table.rows}
        made, known = StepNumbers.of(table), read_table(table_text(table, symbols, {}))
        assert known[1] == symbols
        for name in ("bases", "kernels", "phases", "cuts"):
            assert getattr(known[0], name) == getattr(made, name)
        for name in ("numbers", "windows_at", "sizes_at", "rest"):
            assert np.array_equal(getattr(known[0], name), getattr(made, name))


def edited(written: Path, to: Path, name: str, edit: Callable[[str], str]) -> Path:
    """A copy in which a file and its hash are others, as nobody's accident is."""
    directory = copy_of(written, to)
    text = edit((directory / name).read_text())
    (directory / name).write_text(text)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def in_json(change: Callable[[Any], None]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return edit


def at(*path: Any, value: Any) -> Callable[[str], str]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return in_json(change)


def put_strides(slots: list[Any], prefix: str, last: int) -> None:
    """Let the elements of the first matrix of a kind lie apart."""
    row = next(row for row in slots if row[0].startswith(prefix) and len(row[5]) > 1)
    row[5] = [*row[5][:-1], last]


WRONG_NETS = [
    (lambda text: text[:-9], "it is no JSON"),
    (lambda text: "[" * 100_000, "it is no JSON"),
    (lambda text: "[]", "it does not hold name, inputs"),
    (in_json(lambda data: data.pop("slots")), "it does not hold name, inputs"),
    (at("arena_bytes", value=-1), "the arena has a size of -1"),
    (at("arena_bytes", value=1 << 80), "the arena has a size of"),
    (at("bases", "params", value=64), "does not lie in params, which has 64 bytes"),
    (at("bases", "optimizer", value=64), "its bases are not"),
    (at("inputs", 0, 2, value=[4, 2, 4]), "`x` has 3 axes and 4 dims"),
    (at("inputs", 0, 2, value=[4, 2, 4, 1 << 61]), "`x` is too large"),
    (at("inputs", 0, 2, value=[5, 2, 4, 4]), "`input:x` is tensor<5x2x4x4xf32>, but its slot is not"),
    (at("inputs", 0, 1, value="f16"), "`x` is of an unknown element type"),
    (at("params", 0, 4, value="2"), "fan_in of"),
    (at("params", 0, value=[]), "a row of params has 0 entries, not 7"),
    (at("loss_weights", "main", value="x"), "main is x, no float"),
    (at("slots", 0, 1, value="grand"), "lies in an unknown base"),
    (at("slots", 0, 2, value=2), "`input:x` does not lie in"),
    (at("slots", 0, 2, value=-64), "the offset of `input:x` has a size of -64"),
    (at("slots", 0, 5, value=[1 << 40, 16, 4, 1]), "`input:x` does not lie in"),
    (at("slots", 0, 5, value=[-32, 16, 4, 1]), "a stride of `input:x` has a size of -32"),
    (at("slots", value=[]), "`input:x` lies nowhere"),
    (in_json(lambda data: put_strides(data["slots"], "param:", 2)), "does not lie in one piece"),
    (at("index_checks", 0, 1, value="x"), "`x` is no input or state of integers"),
    (at("index_checks", 0, 6, value=[[0, 99, 1]]), "are not all among its elements"),
]


@pytest.mark.parametrize(("edit", "message"), WRONG_NETS, ids=[m[:40] for _, m in WRONG_NETS])
def test_wrong_data_is_one_error(written: Path, tmp_path: Path, edit: Callable[[str], str], message: str) -> None:
    directory = edited(written, tmp_path, "train/net.json", edit)
    error = error_of(directory)
    assert error.startswith(f"error: {directory / 'train/net.json'} is damaged: ") and message in error
    assert "write it again" in error


def in_line(number: int, edit: Callable[[str], str]) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines()
        lines[number] = edit(lines[number])
        return "\n".join(lines) + "\n"

    return change


def in_all_launches(text: str, change: Callable[[Any], None]) -> str:
    head, *lines = text.splitlines()
    return "\n".join([head, *(in_json(change)(line) for line in lines)]) + "\n"


WRONG_TABLES = [
    (lambda text: "", "it is empty"),
    (in_line(2, lambda line: line[:-1]), "line 3: it is no JSON"),
    (in_line(2, lambda line: "[" * 100_000), "line 3: it is no JSON"),
    (in_line(0, lambda line: "{}"), "line 1: not the bases, symbols and cuts of a table"),
    (in_line(0, at("bases", 0, 1, value=1 << 70)), "line 1: bases are names, each with its bytes"),
    (in_line(0, at("bases", 5, 1, value=1 << 40)), "its bases are not those of net.json"),
    (in_line(0, at("symbols", value={"a": 1})), "line 1: symbols are a name for each kernel"),
    (in_line(0, at("symbols", value={})), "line 2: a kernel without a symbol"),
    (
        in_line(0, in_json(lambda d: d["symbols"].update(dict.fromkeys(d["symbols"], "no")))),
        "the object code cannot be loaded: Symbols not found: [ kernel.no ]",
    ),
    (in_line(1, at(0, value=["k"])), "line 2: a kernel without a symbol"),
    (in_line(1, at(1, value="sideways")), "line 2: an unknown phase"),
    (in_line(1, at(2, value=1 << 64)), "line 2: what is added"),
    (in_line(1, at(3, value=-1)), "line 2: what is added, or where the chunk begins and ends, is wrong"),
    (in_line(1, at(4, value=-1)), "line 2: what is added, or where the chunk begins and ends, is wrong"),
    (in_line(1, at(5, value=3)), "line 2: not windows and sizes"),
    (in_line(1, at(5, 0, 0, value=6)), "line 2: a window of an unknown base"),
    (in_line(1, at(5, 0, 0, value=-1)), "line 2: a window of an unknown base"),
    (in_line(1, at(5, 0, 1, value=-4)), "line 2: bytes -4 to"),
    (in_line(1, at(5, 0, 2, value=1 << 30)), "1073741824 are not all in"),
    (in_line(1, at(5, 0, 3, value=0.5)), "line 2: not a window"),
    (in_line(1, at(6, value=["4"])), "line 2: not windows and sizes"),
    (in_line(0, at("takes", value=[])), "line 1: what kernels take is how many sizes"),
    (in_line(0, in_json(lambda d: d["takes"].update({k: [0] for k in d["takes"]}))), "line 1: what kernels take is"),
    (in_line(0, at("takes", value={})), "line 2: the kernel"),
    (lambda text: in_all_launches(text, lambda launch: launch[5].clear()), "takes other windows and sizes"),
    (lambda text: in_all_launches(text, lambda launch: launch[5].pop()), "takes other windows and sizes"),
    (lambda text: in_all_launches(text, lambda launch: launch[5][0].pop()), "takes other windows and sizes"),
]


@pytest.mark.parametrize(
    ("edit", "message"), WRONG_TABLES, ids=[f"{k}-{m[:30]}" for k, (_, m) in enumerate(WRONG_TABLES)]
)
def test_a_wrong_table_is_one_error(written: Path, tmp_path: Path, edit: Callable[[str], str], message: str) -> None:
    directory = edited(written, tmp_path, "train/step.jsonl", edit)
    net = concatc.load(directory)
    with pytest.raises(concatc.UsageError) as caught:
        net.train_step(batch())
    error = str(caught.value)
    assert error.startswith(f"error: {directory / 'train/step.jsonl'} is damaged: ") and message in error


def test_launches_of_one_kernel_take_the_same_arguments(written: Path, tmp_path: Path) -> None:
    text = (written / "train/step.jsonl").read_text()
    header, *rows = text.splitlines()
    row = json.loads(rows[0])
    row[6].append(1)
    lines = [header, *rows, json.dumps(row)]
    directory = edited(written, tmp_path, "train/step.jsonl", lambda _: "\n".join(lines))
    with pytest.raises(concatc.UsageError, match="takes other windows and sizes"):
        concatc.load(directory).train_step(batch())


def test_inference_shares_the_memory_of_training(written: Path, tmp_path: Path) -> None:
    def grow(data: Any) -> None:
        data["bases"]["params"] += 64

    net = concatc.load(edited(written, tmp_path, "infer/net.json", in_json(grow)))
    with pytest.raises(concatc.UsageError, match="its parameters and states are not those of training"):
        net.eval(batch())
