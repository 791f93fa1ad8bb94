"""explain and summary: their text, pinned."""

from __future__ import annotations

import pytest

from concatc.compiler import Options, compile_net
from concatc.diagnostics import Loc, UsageError
from concatc.inspect.explain import Explanation
from concatc.inspect.explain import explain as explanation
from concatc.inspect.summary import summarize, text
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from tests.ir_text import dedent
from tests.small_nets import NetBuilder
from tests.test_derive_backward import NETS, thread
from tests.test_fuse import dense_net


def levels(module: Module) -> tuple[Module, Module]:
    """Joint and split graph."""
    InsertSplits().run(module)
    split = clone_module(module)
    DeriveBackward().run(module)
    return module, split


def explain(joint: Module, split: Module, name: str) -> str:
    return explanation(joint, split, name).text()


def contributions(found: Explanation) -> list[str]:
    return [name for leg in found.gradients[0].legs for name in leg.contributions]


def test_a_branch_is_a_slice() -> None:
    module = thread(64, 32).module()
    for line, op in enumerate(module.main.ops, 1):
        op.loc = Loc("thread.cnet", line, 5)
    assert explain(*levels(module), "ha") == dedent(
        """
        gradient of ha: tensor<64x5xf32>, made by relu at thread.cnet:2:5
        one contribution: %ha.grad

        from loss main, weight 1.0
          %logits.grad  softmax_loss_grad  through softmax_loss %main  thread.cnet:7:5
          %h.grad       linear             through linear %logits      thread.cnet:6:5
          %ha.grad      slice              rows 0..64 of %h.grad       thread.cnet:5:5
        """
    )


def test_a_blob_joined_with_itself() -> None:
    assert explain(*levels(NETS["concat_a_b_a"](NetBuilder())), "a") == dedent(
        """
        gradient of a: tensor<3x4xf32>, made by linear
        2 contributions, added in this order by accumulate:
          1. %a.use1.grad, from concat %concat.1
          2. %a.use0.grad, from concat %concat.1

        1. from loss loss0, weight 1.0
          %concat.1.grad  softmax_loss_grad  through softmax_loss %loss0
          %a.use1.grad    slice              columns 8..12 of %concat.1.grad

        2. from loss loss0, weight 1.0
          %concat.1.grad  softmax_loss_grad  through softmax_loss %loss0
          %a.use0.grad    slice              columns 0..4 of %concat.1.grad
        """
    )


def test_an_add_hands_the_gradient_on() -> None:
    assert explain(*levels(NETS["shared_sum"](NetBuilder())), "a") == dedent(
        """
        gradient of a: tensor<3x4xf32>, made by linear
        2 contributions, added in this order by accumulate:
          1. %a.use1.grad, from concat %concat.1
          2. %add.1.grad, from add %add.1
        3 paths lead to it, from loss loss0, weight 1.0 and from loss loss1, weight 1.0

        1. from loss loss0, weight 1.0
          %concat.1.grad       softmax_loss_grad  through softmax_loss %loss0
          %a.use1.grad         slice              columns 0..4 of %concat.1.grad

        2. from %linear.1.grad
          %add.1.grad          linear             through linear %linear.1
          %add.1.grad                             through add %add.1

        %linear.1.grad adds 2 contributions
          from loss loss1, weight 1.0
            %concat.2.grad       softmax_loss_grad  through softmax_loss %loss1
            %linear.1.use1.grad  slice              columns 4..8 of %concat.2.grad
          from loss loss0, weight 1.0
            %concat.1.grad       softmax_loss_grad  through softmax_loss %loss0
            %linear.1.use0.grad  slice              columns 4..8 of %concat.1.grad
        """
    )


def test_a_slice_fills_its_part() -> None:
    found = explain(*levels(NETS["unused_slice"](NetBuilder())), "a")
    assert "%slice.1.grad is columns 0..3 of it" in found


def test_a_shared_parameter() -> None:
    found = explanation(*levels(NETS["shared_parameters"](NetBuilder())), "w")
    assert contributions(found) == ["%w.use2.grad", "%w.use1.grad", "%w.use0.grad"]


def test_channels_of_images() -> None:
    found = explain(*levels(dense_net(stages=1).module()), "stage0.dense1.weight")
    assert "channels 9..12 of" in found


def test_where_paths_meet_a_gradient_is_explained_once() -> None:
    net = NetBuilder()
    h = net.named("h", net.b.linear(net.input("x", 2, 1), net.param("w", 1, 1)))
    for _ in range(40):
        h = net.b.concat(h, h, axis=0)
        h, _ = net.b.slice(h, axis=0, sizes=(2, 2))
        h = net.b.add(h, h)
    net.softmax_loss(h, net.input("label", 2, dtype="i32"))
    found = explanation(*levels(net.module()), "w")
    assert found.path_count == 4**40
    assert len(found.gradients) <= 3 * 40 + 1
    assert len(found.text().splitlines()) < 17 * 40  # lines for one round are as many in a deep net
    cut = found.text(most_lines=40).splitlines()
    assert len(cut) == 41 and cut[-1].endswith("more lines; --all shows them")


def test_sums_and_forks_have_sections_of_their_own() -> None:
    """Both branches of c = concat(tanh(h), exp(h)) come from the gradient of c, and meet in that of h."""
    n = NetBuilder()
    h = n.named("h", n.b.linear(n.input("x", 2, 3), n.param("w", 4, 3)))
    c = n.named("c", n.b.concat(n.named("p", n.b.tanh(h)), n.named("q", n.b.exp(h)), axis=1))
    y = n.named("y", n.b.linear(n.named("r", n.b.relu(c)), n.param("v", 2, 8)))
    n.softmax_loss(y, n.input("label", 2, dtype="i32"))
    assert explain(*levels(n.module()), "w") == dedent(
        """
        gradient of w: tensor<4x3xf32>, parameter
        one contribution: %w.grad
        2 paths lead to it, from loss loss0, weight 1.0

        from %h.grad
          %w.grad       linear_weight_grad  through linear %h

        %h.grad adds 2 contributions
          from %c.grad
            %q.grad       slice               columns 4..8 of %c.grad
            %h.use1.grad  mul                 through exp %q
          from %c.grad
            %p.grad       slice               columns 0..4 of %c.grad
            %h.use0.grad  tanh_grad           through tanh %p

        %c.grad
          from loss loss0, weight 1.0
            %y.grad       softmax_loss_grad   through softmax_loss %loss0
            %r.grad       linear              through linear %y
            %c.grad       relu_grad           through relu %r
        """
    )


def test_the_operations_of_a_call_are_one_step() -> None:
    source = (
        "net f(n = 4) { input x: f32[n, 3, 4, 4]; input t: i32[n]\n"
        "h = x |> conv(5, kernel=3) @c |> batch_norm |> relu\n"
        "y = h |> flatten |> linear(2)\nloss softmax_loss(y, t) }\n"
    )
    train = compile_net(source, "f.cnet").phase("train")
    found = explanation(train.level("joint"), train.level("split"), "c.weight")
    assert [row.how for row in found.gradients[0].legs[0].rows] == [
        "through softmax_loss %softmax_loss",
        "through linear, bias %y",
        "through flatten %y.flatten",
        "through relu %h",
        "through channel_stats, normalize, scale, bias %h.bias.3",
        "through conv, bias %h.bias.2; %h.bias.2.grad adds 2 contributions",
    ]
    assert found.path_count == 1


def test_gradients_of_outputs_that_are_given() -> None:
    source = "net f(n = 4) { input x: f32[n, 3]; h = linear(x, 2); y = tanh(h); output y; output h }\n"
    train = compile_net(source, "f.cnet", Options(output_grads=True)).phase("train")
    found = explanation(train.level("joint"), train.level("split"), "h.weight")
    assert found.ends == (
        "the gradient of output h that is given",
        "the gradient of output y that is given",
    )
    assert [row.how for leg in found.gradients[1].legs for row in leg.rows] == ["as it is given", "through tanh %y"]


def test_deep_nets() -> None:
    net = NetBuilder()
    h = net.b.linear(net.input("x", 2, 2), net.param("w", 2, 2))
    for _ in range(1500):
        h = net.b.tanh(h)
    net.softmax_loss(h, net.input("label", 2, dtype="i32"))
    found = explanation(*levels(net.module()), "w")
    assert len(found.gradients[0].legs[0].rows) == 1502


def test_no_gradient() -> None:
    net = thread()
    net.param("unused", 2, 2)
    joint, split = levels(net.module())
    assert explain(joint, split, "label").endswith("integers have no gradient")
    assert explain(joint, split, "unused").endswith("no loss depends on it: its gradient is 0")
    assert "(not computed)" in explain(joint, split, "a")


def test_unknown_name() -> None:
    with pytest.raises(UsageError) as error:
        explain(*levels(thread().module()), "hx")
    assert str(error.value) == "error: the net has no blob or parameter `hx`\nhelp: did you mean `h`?"


def test_summary() -> None:
    expected = dedent(
        """
        blob       op            shape   params  bytes  flops
        ha.linear  linear        4x5         15     80    120
        ha         relu          4x5          0     80     20
        hb.linear  linear        2x5         15     40     60
        hb         relu          2x5          0     40     10
        h          concat        6x5          0    120      0
        logits     linear        6x4         20     96    240
        main       softmax_loss  scalar       0      4    132
        loss       total_loss    scalar       0      4      1
        thread: 50 parameters (200 bytes), 583 flops forward
        """
    )
    module = thread().module()
    assert text(summarize(module)) == expected
    InsertSplits().run(module)
    assert text(summarize(module)) == expected


def test_summary_counts_a_shared_parameter_once() -> None:
    module = NETS["shared_parameters"](NetBuilder())
    InsertSplits().run(module)
    summary = summarize(module)
    assert [row.params for row in summary.rows if row.op == "linear"] == [16, 0, 0]
    assert summary.params == 16
