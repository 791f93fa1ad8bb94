"""The command line: what each command prints, its files, exit codes, messages."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import COMMANDS, exit_code

ROOT = Path(__file__).parent.parent
THREAD = str(ROOT / "examples" / "thread.cnet")
SMALL = """net small(n = 4, size = 3) {
    input x: f32[n, 5]
    input label: i32[n]
    h = x |> linear(size) |> relu
    y = linear(h, 3)
    loss softmax_loss(y, label)
    output y
}
"""
BROKEN = """net broken(n = 4) {
    input x: f32[n, 5]
    a = liner(x, 3)
    b = concat(x, x, axis=7)
    output b
}
"""


class Cli:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = exit_code([str(a) for a in arguments])
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.cnet").write_text(SMALL)
    (tmp_path / "broken.cnet").write_text(BROKEN)
    return Cli(capsys)


def test_help_lists_every_command(cli: Cli) -> None:
    code, out, err = cli("--help")
    assert code == 0 and err == ""
    assert all(f"\n  {name} " in out for name in COMMANDS)
    for name in COMMANDS:
        code, out, _ = cli(name, "--help")
        assert code == 0 and "Usage:" in out


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"concatc, version {concatc.__version__}\n", "")


def test_check(cli: Cli) -> None:
    code, out, err = cli("check", "small.cnet", "--dim", "n=7")
    assert (code, err) == (0, "")
    assert out == "small.cnet: net small(n=7, size=3) is well formed: 2 inputs, 4 parameters, 1 loss, 1 output\n"


def test_check_reports_all_errors_with_their_places(cli: Cli) -> None:
    code, out, err = cli("check", "broken.cnet")
    assert (code, out) == (1, "")
    assert err.startswith("broken.cnet:3:9: error: ") and "\nbroken.cnet:4:9: error: " in err
    assert "    a = liner(x, 3)\n        ^^^^^" in err
    assert "Traceback" not in err


def test_warnings_go_to_stderr(cli: Cli) -> None:
    Path("w.cnet").write_text(SMALL.replace("    h =", "    input spare: f32[n]\n    h ="))
    code, out, err = cli("check", "w.cnet")
    assert code == 0 and "is well formed" in out
    assert "w.cnet:4:11: warning: input `spare` is not used" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "none.cnet"), "none.cnet cannot be read: No such file or directory"),
        (("check", "."), "cannot be read"),
        (("check", "small.cnet", "--dim", "n"), "--dim n: expected NAME=VALUE, such as --dim x=128"),
        (("check", "small.cnet", "--dim", "m=2"), "has no dim `m`"),
        (("check", "small.cnet", "--net", "smal"), "did you mean `small`?"),
        (("compile", "small.cnet", "--target", "gpu"), "no target `gpu`"),
        (("compile", "small.cnet", "--print-after", "fuze"), "did you mean `fuse`?"),
        (("compile", "small.cnet", "--emit", "ir", "--level", "nine"), "no level `nine`"),
        (("compile", "small.cnet", "--emit", "kernels", "--target", "reference"), "it has no kernels"),
        (("compile", "small.cnet", "--emit", "wasm"), "Invalid value for '--emit'"),
        (("compile", "small.cnet", "--keep", "q"), "no blob `q`"),
        (("run", "small.cnet", "--data", "none.npz"), "cannot read none.npz"),
        (("run", "small.cnet", "--data", "small.cnet"), "is no .npz file"),
        (("train", "small.cnet"), "Missing option '--data'"),
        (("opt", "small.cnet", "--passes", "fuze"), "did you mean `fuse`?"),
        (("opt", "small.cnet"), "small.cnet is a net; passes run on its IR"),
        (("run", "small.cnet", "-o", "."), "cannot write .: it is a directory"),
        (("ops", "cocat"), "did you mean `concat`?"),
        (("explain", "small.cnet", "hh", "--target", "reference"), "hh"),
        (("chekc",), "No such command 'chekc'.\nhelp: did you mean `check`?"),
        (("benchh", "net.cnet"), "No such command 'benchh'.\nhelp: did you mean `bench`?"),
        (("xyzzy",), "No such command 'xyzzy'.\n"),
    ],
)
def test_wrong_calls_end_in_2(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_json_for_tools(cli: Cli) -> None:
    code, out, _ = cli("check", "small.cnet", "--json")
    assert code == 0
    assert json.loads(out) == {
        "ok": True,
        "diagnostics": [],
        "net": "small",
        "dims": {"n": 4, "size": 3},
        "warnings": [],
    }
    code, out, err = cli("check", "broken.cnet", "--json")
    result = json.loads(out)
    assert (code, err, result["ok"]) == (1, "", False)
    first = result["diagnostics"][0]
    assert (first["file"], first["line"], first["column"], first["severity"]) == ("broken.cnet", 3, 9, "error")
    code, out, _ = cli("check", "none.cnet", "--json")
    assert code == 2 and json.loads(out)["diagnostics"][0]["message"].startswith("none.cnet cannot be read")


def test_compile_dumps_every_level_and_every_dump_parses(cli: Cli) -> None:
    from concatc.ir.parser import parse_module

    code, out, err = cli("compile", "small.cnet", "--dump-ir", "dump", "--verify-each")
    assert (code, err) == (0, "") and "0 B copied in a step" in out
    levels = ("00-graph", "01-split", "02-joint", "03-optimized", "04-kernels", "05-plan", "06-loops")
    names = sorted(p.name for p in Path("dump").glob("*.mlir"))
    assert names == [f"{level}.mlir" for level in levels]
    for path in sorted(Path("dump").rglob("*.mlir")):
        parse_module(path.read_text(), str(path))
    assert "backward" in Path("dump/02-joint.mlir").read_text()
    assert "backward" not in Path("dump/inference/02-joint.mlir").read_text()


@pytest.mark.parametrize(
    ("what", "needle"),
    [("ir", '"cnet.linear"'), ("plan", '"cnet.launch"'), ("loops", "scf.for"), ("llvm", "define"), ("asm", "ret")],
)
def test_emit(cli: Cli, what: str, needle: str) -> None:
    code, out, err = cli("compile", "small.cnet", "--emit", what)
    assert (code, err) == (0, "") and needle in out


def test_emitted_kernels_are_python(cli: Cli) -> None:
    code, out, _ = cli("compile", "small.cnet", "--emit", "kernels")
    assert code == 0
    compile(out, "kernels.py", "exec")


def test_passes_are_shown_and_timed(cli: Cli) -> None:
    code, _, err = cli("compile", "small.cnet", "--print-after", "insert-splits", "--time-passes")
    assert code == 0 and "// after insert-splits" in err
    assert "plan-memory" in err and "total" in err
    code, _, err = cli("compile", "small.cnet", "--print-after-all")
    assert code == 0 and "+++ after derive-backward" in err


def test_a_written_module_runs(cli: Cli) -> None:
    code, out, err = cli("compile", "small.cnet", "-o", "small")
    assert (code, err) == (0, "") and "written to small" in out
    net = concatc.load("small")
    assert net.eval(x=np.zeros((4, 5), np.float32))["y"].shape == (4, 3)


def test_run_reads_and_writes_npz(cli: Cli) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5))
    np.savez("in.npz", x=x, label=np.arange(4) % 3, other=x)
    net = concatc.compile("small.cnet", target="reference")
    net.init(seed=3)
    net.save("w.safetensors")
    code, out, err = cli("run", "small.cnet", "--data", "in.npz", "--weights", "w.safetensors", "-o", "out.npz")
    assert (code, err) == (0, "") and out.startswith("y: float32[4, 3], mean ")
    expected = net.eval(x=x.astype(np.float32))["y"]
    np.testing.assert_allclose(np.load("out.npz")["y"], expected, atol=1e-6)
    code, out, _ = cli("run", "small.cnet", "--data", "in.npz", "--train", "--seed", "3")
    assert code == 0 and out.startswith("loss: ")
    code, _, err = cli("run", "small.cnet", "--train")
    assert (code, err) == (2, "error: the net reads `x`, `label`\nhelp: give a file that holds them: --data FILE.npz\n")
    code, _, err = cli("run", "small.cnet", "--data", "in.npz", "--key", "x=label", "--key", "x=other", "--key", "y=x")
    assert code == 2 and "--key x=other: `x` is taken from `label` already" in err and "no input `y`" in err


def test_weights_of_a_net_with_branches_are_used_on_the_data_that_trained_them(cli: Cli) -> None:
    """Both commands share out the rows of one array; the example of the README in small."""
    data = data_of_three_clusters(90)
    np.savez("data.npz", image=data["x"], label=data["label"])
    Path("two.cnet").write_text(
        "net two(x = 4, y = 2) { input a: f32[x, 5]; input b: f32[y, 5]; input label: i32[x + y]\n"
        "z = linear(concat(a, b, axis=0), 3); loss softmax_loss(z, label); output z }\n"
    )
    call = ("two.cnet", "--data", "data.npz", "--key", "a=image", "--key", "b=image", "--recompute", "none")
    assert cli("train", *call, "-o", "w.safetensors")[0] == 0
    code, out, err = cli("run", *call, "--weights", "w.safetensors", "-o", "z.npz")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["a takes rows 0..60 of the data", "b takes rows 60..90 of the data"]
    assert out.splitlines()[3] == "accuracy 100.0 %"
    assert np.mean(np.load("z.npz")["z"].argmax(axis=1) == data["label"]) == 1.0
    assert json.loads(cli("run", *call, "--weights", "w.safetensors", "--json")[1])["accuracy"] == 1.0


def test_pickled_data_are_refused(cli: Cli) -> None:
    np.savez("evil.npz", x=np.array([{"a": 1}], dtype=object))
    code, _, err = cli("run", "small.cnet", "--data", "evil.npz")
    assert code == 2 and "is no .npz file of arrays" in err


def data_of_three_clusters(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, rows)
    return {"x": np.eye(3, 5)[label] * 2 + rng.normal(0, 0.3, (rows, 5)), "label": label}


def test_train_learns_and_writes_weights(cli: Cli) -> None:
    np.savez("data.npz", **data_of_three_clusters(200))
    code, out, err = cli("train", "small.cnet", "--data", "data.npz", "--epochs", "4", "--dim", "size=8")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert lines[3].endswith("held-out accuracy 100.0 %")
    assert lines[4].endswith("compilation included; weights written to small.safetensors")
    net = concatc.compile("small.cnet", dims={"size": 8}, target="reference")
    net.load("small.safetensors")
    again = cli("train", "small.cnet", "--data", "data.npz", "--epochs", "4", "--dim", "size=8")[1]
    assert again.splitlines()[:4] == lines[:4], "the same seed gives the same run"


def test_train_reports_as_json(cli: Cli) -> None:
    np.savez("data.npz", **data_of_three_clusters(60))
    code, out, _ = cli(
        "train", "small.cnet", "--data", "data.npz", "--epochs", "2", "--optimizer", "adam", "--json", "-o", "w.st"
    )
    result = json.loads(out)
    assert code == 0 and len(result["epochs"]) == 2
    assert set(result["epochs"][0]) == {"epoch", "losses", "accuracy"}
    assert Path("w.st").exists()


def test_train_explains_data_that_do_not_fit(cli: Cli) -> None:
    np.savez("data.npz", image=np.zeros((50, 5)), label=np.zeros(50, int))
    code, _, err = cli("train", "small.cnet", "--data", "data.npz")
    assert code == 2 and "the data have no `x` (f32[n=4, 5])" in err
    code, _, err = cli("train", "small.cnet", "--data", "data.npz", "--key", "x=picture")
    assert code == 2 and "--key x=picture" in err and "there are `image`, `label`" in err
    np.savez("data.npz", x=np.zeros((50, 6)), label=np.zeros(50, int))
    code, _, err = cli("train", "small.cnet", "--data", "data.npz")
    assert code == 2 and "`x` has shape [50, 6] in the data of 50 rows, but the net takes f32[n=4, 5]" in err
    np.savez("data.npz", x=np.zeros((4, 5)), label=np.zeros(4, int))
    code, _, err = cli("train", "small.cnet", "--data", "data.npz", "--held-out", "0.5")
    assert code == 2 and "a batch takes 4 rows, but there are 2 to train on" in err
    np.savez("data.npz", x=np.zeros((50, 5)), label=np.full(50, 3))
    code, _, err = cli("train", "small.cnet", "--data", "data.npz")
    assert code == 2 and "input `label` holds 3 at [0], but must hold 0 to 2" in err


def test_labels_of_held_out_rows_are_checked_before_training(cli: Cli) -> None:
    data = data_of_three_clusters(20)
    data["label"][17] = 9
    np.savez("data.npz", **data)
    expected = (
        "error: input `label` holds 9 at [17], but must hold 0 to 2\nnote: it indexes softmax_loss at small.cnet:6:10"
    )
    for command in (("train", "--epochs", "1"), ("run",), ("run", "--train")):
        code, out, err = cli(command[0], "small.cnet", "--data", "data.npz", *command[1:])
        assert (code, out) == (2, "") and expected in err
    assert not Path("small.safetensors").exists()


def test_summary(cli: Cli) -> None:
    code, out, _ = cli("summary", THREAD)
    assert code == 0 and "17,930" in out and "ha.weight" in out


def test_ops(cli: Cli) -> None:
    code, out, _ = cli("ops")
    assert code == 0 and "concat(xs, .., axis=1)" in out.splitlines()
    code, out, _ = cli("ops", "concat")
    assert code == 0 and "Join blobs along `axis`" in out


def test_explain(cli: Cli) -> None:
    code, out, _ = cli("explain", THREAD, "ha")
    assert code == 0 and "rows 0..64 of %h.grad" in out
    dense = str(ROOT / "examples" / "nets" / "densenet40.cnet")
    code, out, _ = cli("explain", dense, "stem.weight")
    assert code == 0 and len(out.splitlines()) == 41 and out.endswith(" more lines; --all shows them\n")
    code, everything, _ = cli("explain", dense, "stem.weight", "--all")
    assert everything.startswith(out[: out.index("\n.. ")]) and "from loss softmax_loss, weight 1.0" in everything
    code, out, _ = cli("explain", dense, "stem.weight", "--json")
    found = json.loads(out)
    assert found["text"] == everything.rstrip() and found["gradients"][0]["legs"][0]["source"] == "%h.grad"


def test_opt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, graph, _ = cli("compile", "small.cnet", "--emit", "ir", "--level", "graph")
    assert code == 0 and "cnet.split" not in graph
    Path("graph.mlir").write_text(graph)
    code, out, _ = cli("opt", "graph.mlir", "--passes", "insert-splits,derive-backward", "-o", "joint.mlir")
    assert (code, out) == (0, "") and "cnet.split" in Path("joint.mlir").read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO(graph))
    code, out, _ = cli("opt", "-", "--passes", "insert-splits")
    assert code == 0 and "cnet.split" in out
    code, out, _ = cli("opt", "--list")
    assert code == 0 and [line for line in out.splitlines() if line.startswith(("canonicalize ", "insert-splits "))]
    Path("bad.mlir").write_text(graph.replace("cnet.linear", "cnet.liner"))
    code, _, err = cli("opt", "bad.mlir")
    assert code == 1 and "cnet.liner" in err


def test_files_are_replaced_whole(cli: Cli) -> None:
    Path("out.npz").write_text("old")
    np.savez("in.npz", x=np.zeros((4, 5)))
    assert cli("run", "small.cnet", "--data", "in.npz", "-o", "out.npz")[0] == 0
    assert not list(Path.cwd().glob("*.part"))
    code, _, err = cli("run", "small.cnet", "--data", "in.npz", "-o", "small.cnet/out.npz")
    assert code == 2 and "cannot write" in err


def test_our_bugs_are_no_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("concatc.compiler.Compilation.__init__", fail)
    monkeypatch.delenv("CONCATC_TRACEBACK", raising=False)
    code, _, err = cli("check", "small.cnet")
    assert code == 70 and "error: concatc itself failed (ZeroDivisionError: oops)" in err and "Traceback" not in err


def test_permissions_of_written_files_are_those_of_the_umask(cli: Cli, tmp_path: Path) -> None:
    np.savez("in.npz", x=np.zeros((4, 5)))
    old = os.umask(0o027)
    try:
        assert cli("run", "small.cnet", "--data", "in.npz", "-o", "out.npz")[0] == 0
    finally:
        os.umask(old)
    assert (tmp_path / "out.npz").stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob(".*")), "nothing stays beside it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--level", "joint"), "--level goes with --emit ir"),
        (("--emit", "asm", "--level", "joint"), "--level goes with --emit ir"),
        (("--phase", "infer"), "--phase goes with --emit"),
        (("--emit", "asm", "--plain"), "--plain goes with --emit ir|plan|loops and --dump-ir"),
        (("--emit", "asm", "-o", "x"), "--emit prints, and -o writes a module: they do not go together"),
    ],
)
def test_options_that_would_be_ignored(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = cli("compile", "small.cnet", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"error: {message}\n")


def test_what_is_emitted_is_no_json(cli: Cli) -> None:
    code, out, _ = cli("compile", "small.cnet", "--emit", "asm", "--json")
    assert code == 2 and "--json is of what `compile` reports" in json.loads(out)["diagnostics"][0]["message"]


def test_momentum_is_of_sgd_alone(cli: Cli) -> None:
    code, _, err = cli("train", "small.cnet", "--data", "data.npz", "--optimizer", "adam", "--momentum", "0.5")
    assert (code, err) == (2, "error: --momentum goes with --optimizer sgd\n")


def test_compile_reports_both_phases(cli: Cli) -> None:
    lines = cli("compile", "small.cnet")[1].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["net small", "training", "inference"]
    assert lines[1].endswith("0 B copied in a step") and lines[2].endswith("0 B copied in a call")


def test_written_modules_are_run_and_trained(cli: Cli) -> None:
    assert cli("compile", "small.cnet", "-o", "made")[0] == 0
    rng = np.random.default_rng(0)
    np.savez("d.npz", x=rng.normal(size=(40, 5)).astype(np.float32), label=np.zeros(40, np.int32))
    assert cli("train", "made", "--data", "d.npz", "--epochs", "1", "-o", "w.safetensors")[0] == 0
    shown = [cli("run", net, "--data", "d.npz", "--weights", "w.safetensors") for net in ("made", "small.cnet")]
    assert shown[0] == shown[1] and shown[0][0] == 0
    assert cli("run", "made", "--data", "d.npz", "--train", "--dim", "n=7")[0] == 0
    code, _, err = cli("run", "made")
    assert code == 2 and err == "error: the net reads `x`\nhelp: give a file that holds them: --data FILE.npz\n"
    np.savez("y.npz", y=np.zeros((4, 5), np.float32))
    code, _, err = cli("run", "made", "--data", "y.npz")
    assert code == 2 and "the data have no `x` (f32[n=4, 5])\nhelp: they hold `y`" in err
    code, _, err = cli("run", "made", "--data", "d.npz", "--dtype", "f64", "--max-memory", "1GiB")
    assert code == 2 and "what --dtype, --max-memory would choose is settled in it" in err
    code, _, err = cli("check", "made")
    assert code == 2 and "made is a written module, which holds no text of a net\nhelp: `concatc run`" in err


def test_passes_rewrite_graphs(cli: Cli) -> None:
    assert cli("compile", "small.cnet", "--dump-ir", "dumps")[0] == 0
    for level in ("05-plan", "06-loops"):
        for name in ("cse", "insert-splits", "merge-branches"):
            code, out, err = cli("opt", f"dumps/{level}.mlir", "--passes", name)
            assert (code, out) == (2, "") and f"is a dump of the level {level[3:]}; passes rewrite graphs" in err
        assert cli("opt", f"dumps/{level}.mlir", "--passes", "verify", "-o", os.devnull)[0] == 0
    code, _, err = cli("opt", "dumps/04-kernels.mlir", "--passes", "plan-memory")
    assert code == 2 and "`plan-memory` rewrites no graph" in err and "--emit plan|loops" in err
    for level in ("02-joint", "03-optimized"):
        code, _, err = cli("explain", f"dumps/{level}.mlir", "h")
        assert code == 2 and "a dump that has a backward half (joint or optimized); the graph that" in err
    code, _, err = cli("explain", "dumps/04-kernels.mlir", "h")
    assert code == 2 and "it has no joint graph\nhelp: take the .cnet file that it was made of" in err


def test_what_newcomers_write(cli: Cli) -> None:
    """Each is told what was meant, in a line of its own."""
    hot = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    x = np.zeros((40, 5), np.float32)
    np.savez("hot.npz", x=x, label=hot)
    np.savez("few.npz", x=x[:4], label=np.zeros(4, np.int32))
    np.savez("text.npz", x=np.array([["a"] * 5] * 40), label=np.zeros(40, np.int32))
    for line, said in {
        "check small": "help: did you mean `small.cnet`?\n",
        "explain small.cnet loss": "it is the weighted total of the losses: its gradient is 1\n",
        "train small.cnet --data hot.npz": "help: the net takes numbers of classes: label.argmax(-1)",
        "train small.cnet --data few.npz --held-out 0.5": "2 to train on (2 of 4 rows are held out)\nhelp: choose",
        "run small.cnet --data text.npz": "error: `x` of text.npz: it holds <U1, no numbers\n",
    }.items():
        _, out, err = cli(*line.split())
        assert said in out + err, line
    net = concatc.compile("small.cnet", target="reference")
    label = np.zeros(4, np.int32)
    for call, said in {
        lambda: net.train_step(concatc.SGD(0.1), x=x[:4], label=label): "help: write optimizer=..",
        lambda: net.train_step(x=x[:4], label=label, optimizer=concatc.SGD): "optimizer is the class SGD",  # type: ignore[arg-type]
        lambda: net.train_step(x=x[:4], label=hot[:4].astype(np.int32)): "label.argmax(-1).astype('int32')",
        lambda: net.train_step(x=x[:4], label=label[:, None]): "help: label[..., 0] has an axis less",
        lambda: concatc.compile("net f() { }"): "help: concatc.compile_source takes the text of a net",
        lambda: concatc.load("small.cnet"): "help: concatc.compile takes nets and dumps",
        lambda: concatc.load("none"): "help: `concatc compile NET -o DIR` writes one",
    }.items():
        with pytest.raises(concatc.UsageError) as caught:
            call()
        assert said in str(caught.value)
    head = "net f(n = 4) {\n    input x: f32[n, 3]\n    input label: i32[n]\n"
    for body, said in {
        "y = linear(x, 3, weight_init=he()); loss softmax_loss(y, label)": "did you mean `msra`?",
        "y = linear(x, 3, bias=none); loss softmax_loss(y, label)": "`bias=false` leaves out a parameter",
        "loss softmax_loss(label, x)": "softmax_loss works on floats; label is",
    }.items():
        with pytest.raises(concatc.ConcatcError) as error:
            concatc.compile_source(f"{head}    {body}\n}}\n")
        assert said in str(error.value)
