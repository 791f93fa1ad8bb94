"""explain and summary: their text, pinned."""

from __future__ import annotations

import pytest

from concatc.diagnostics import Loc, UsageError
from concatc.inspect.explain import MAX_PATHS, contributions, explain
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

        1. from loss loss0, weight 1.0
          %concat.1.grad       softmax_loss_grad  through softmax_loss %loss0
          %a.use1.grad         slice              columns 0..4 of %concat.1.grad

        2. from loss loss0, weight 1.0
          %concat.1.grad       softmax_loss_grad  through softmax_loss %loss0
          %linear.1.use0.grad  slice              columns 4..8 of %concat.1.grad
          %add.1.grad          linear             through linear %linear.1; %linear.1.grad adds 2 contributions
          %add.1.grad                             through add %add.1

        2. from loss loss1, weight 1.0
          %concat.2.grad       softmax_loss_grad  through softmax_loss %loss1
          %linear.1.use1.grad  slice              columns 4..8 of %concat.2.grad
          %add.1.grad          linear             through linear %linear.1; %linear.1.grad adds 2 contributions
          %add.1.grad                             through add %add.1
        """
    )


def test_a_slice_fills_its_part() -> None:
    found = explain(*levels(NETS["unused_slice"](NetBuilder())), "a")
    assert "%slice.1.grad is columns 0..3 of it" in found


def test_a_shared_parameter() -> None:
    found = contributions(*levels(NETS["shared_parameters"](NetBuilder())), "w")
    assert [c.gradient for c in found] == ["%w.use2.grad", "%w.use1.grad", "%w.use0.grad"]


def test_channels_of_images() -> None:
    found = explain(*levels(dense_net(stages=1).module()), "stage0.dense1.weight")
    assert "channels 9..12 of" in found


def test_many_paths_are_counted_not_listed() -> None:
    net = NetBuilder()
    h = net.named("h", net.b.linear(net.input("x", 2, 1), net.param("w", 1, 1)))
    for _ in range(40):
        h = net.b.concat(h, h, axis=0)
        h, _ = net.b.slice(h, axis=0, sizes=(2, 2))
        h = net.b.add(h, h)
    net.softmax_loss(h, net.input("label", 2, dtype="i32"))
    (found,) = contributions(*levels(net.module()), "w")
    assert len(found.paths) == MAX_PATHS
    assert found.path_count == 4**40


def test_deep_nets() -> None:
    net = NetBuilder()
    h = net.b.linear(net.input("x", 2, 2), net.param("w", 2, 2))
    for _ in range(1500):
        h = net.b.tanh(h)
    net.softmax_loss(h, net.input("label", 2, dtype="i32"))
    (found,) = contributions(*levels(net.module()), "w")
    assert len(found.paths[0].rows) == 1502


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
        main       softmax_loss  scalar       0      4    126
        loss       total_loss    scalar       0      4      1
        thread: 50 parameters (200 bytes), 577 flops forward
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
