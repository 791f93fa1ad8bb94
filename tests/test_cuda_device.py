"""The runtime of the target ``cuda``: memory, staging, graphs, errors.

Kernels run on the emulator, all else is as on a device: what is put on the stream is done when somebody waits for it,
and fresh memory is NaN.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.targets.cuda import target
from concatc.targets.cuda.device.driver import DriverError, Parameters
from concatc.targets.cuda.device.emulated_driver import EmulatedDriver
from tests import test_cuda_nets
from tests.cuda_nets import JOINED
from tests.on_device import run_on_device

NORMED = """
net normed(n = 6) {
    input x: f32[n, 9]
    input label: i32[n]
    h = linear(x, 12, bias=false) |> batch_norm |> relu |> dropout(0.3)
    logits = linear(h, 5)
    loss softmax_loss(logits, label)
    output logits
}
"""
SIZE = 12 * 9


class CountingDriver(EmulatedDriver):
    """Notes what it is asked for."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.asked: Counter[str] = Counter()

    def launch_graph(self, graph: int, stream: int) -> None:
        self.asked["graph"] += 1
        super().launch_graph(graph, stream)

    def launch(self, function: int, grid: int, block: int, parameters: Parameters, stream: int) -> None:
        self.asked["kernel"] += 1
        super().launch(function, grid, block, parameters, stream)

    def upload(self, address: int, host: np.ndarray, stream: int) -> None:
        self.asked["upload"] += 1
        super().upload(address, host, stream)

    def download(self, host: np.ndarray, address: int, stream: int) -> None:
        self.asked["download"] += 1
        super().download(host, address, stream)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> CountingDriver:
    made = CountingDriver()
    monkeypatch.setattr(target, "chosen_driver", lambda: made)
    return made


def data(n: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(n, 9)).astype(np.float32), "label": rng.integers(0, 5, n).astype(np.int32)}


def close(found: Any, wanted: Any, terms: int = 21) -> None:
    """f32: 1e-5 of the largest element times the root of the terms of a sum."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max() * np.sqrt(terms)


def pair(text: str, **options: Any) -> tuple[concatc.CompiledModule, concatc.CompiledModule]:
    """The net on the device and on the reference, with equal parameters."""
    nets = tuple(concatc.compile_source(text, target=name, **options) for name in ("cuda", "reference"))
    for net in nets:
        net.init(seed=3)
    return nets


@pytest.mark.parametrize("text", [JOINED, NORMED], ids=["joined", "normed"])
@pytest.mark.parametrize("make", [lambda: concatc.SGD(lr=0.2, momentum=0.9), lambda: concatc.Adam(lr=0.01)])
def test_training_follows_the_reference(driver: CountingDriver, text: str, make: Any) -> None:
    """Steps made again, in which seeds of dropout and scalars of the optimizer change."""
    ours, wanted = pair(text)
    first, second = make(), make()
    for step in range(4):
        batch = data(seed=step)
        losses = ours.train_step(batch, optimizer=first), wanted.train_step(batch, optimizer=second)
        close(losses[0]["loss"], losses[1]["loss"])
    for name in wanted.params:
        assert np.abs(ours.params[name] - wanted.params[name]).max() <= 2e-4 * np.abs(wanted.params[name]).max()
    for name in wanted.states:
        close(ours.states[name], wanted.states[name])
    close(ours.eval(x=data()["x"])["logits"], wanted.eval(x=data()["x"])["logits"], 400)


def test_a_step_is_one_graph_with_its_copies(driver: CountingDriver) -> None:
    net, optimizer = concatc.compile_source(JOINED, target="cuda"), concatc.SGD(lr=0.1, momentum=0.9)
    for _ in range(2):
        net.train_step(data(), optimizer=optimizer)
    driver.asked.clear()
    net.train_step(data(seed=1), optimizer=optimizer)
    assert driver.asked == {"graph": 1}
    held = net.params["h.weight"]  # is to show what the step makes
    driver.asked.clear()
    net.train_step(data(seed=1), optimizer=optimizer)
    assert driver.asked == {"graph": 1, "upload": 2, "download": 2}
    del held
    net.train_step(data(seed=1), optimizer=optimizer)
    driver.asked.clear()
    net.train_step(data(seed=1), optimizer=optimizer)
    assert driver.asked == {"graph": 1}


def test_forward_backward_and_step_are_a_graph_each(driver: CountingDriver) -> None:
    net, optimizer = concatc.compile_source(JOINED, target="cuda"), concatc.SGD(lr=0.1)
    for _ in range(3):  # the second forward is recorded with its copies
        driver.asked.clear()
        net.forward(data())
        net.backward()
        net.step(optimizer)
    assert driver.asked["graph"] == 3
    assert driver.asked["kernel"] == 0


def test_gradients_that_are_changed_are_those_of_the_update(driver: CountingDriver) -> None:
    ours, wanted = pair(JOINED)
    for net in (ours, wanted):
        net.forward(data())
        gradients = net.backward()
        gradients["h.weight"][...] *= 0.5
        net.grads["logits.bias"] = np.ones(5, np.float32)
        net.step(concatc.SGD(lr=0.5))
    for name in wanted.params:
        close(ours.params[name], wanted.params[name])


def test_views_are_live(driver: CountingDriver) -> None:
    """A view that is held shows what steps make, and what is written to it counts."""
    ours, wanted = pair(JOINED)
    held = [net.params["h.weight"] for net in (ours, wanted)]
    part = held[0][:2]  # holds the view that it is of
    for net in (ours, wanted):
        net.train_step(data(), optimizer=concatc.SGD(lr=0.5))
    close(held[0], held[1])
    close(part, held[1][:2])
    for view in held:
        view[0] = 0.25
    losses = [net.forward(data())["loss"] for net in (ours, wanted)]
    close(*losses)
    del held, part
    ours.params["h.weight"][...] = 0.0
    assert np.abs(ours.forward(data())["loss"] - losses[1]) > 1e-3
    assert not ours.params["h.weight"].any()


def test_a_parameter_that_changes_before_backward_is_noticed(driver: CountingDriver) -> None:
    net = concatc.compile_source(NORMED, target="cuda")
    net.forward(data())
    assert net.states
    for name in net.states:
        _ = net.states[name]  # reading the statistics that forward wrote changes nothing
    net.backward()
    weight = net.params["logits.weight"]
    net.forward(data())
    weight[0, 0] = 7.0
    with pytest.raises(concatc.UsageError, match=r"parameter `logits.weight` changed after forward"):
        net.backward()


def test_other_batch_sizes_share_memory(driver: CountingDriver) -> None:
    ours, wanted = pair(JOINED)
    for net in (ours, wanted):
        for n in (6, 3, 6, 11):
            net.train_step(data(n), optimizer=concatc.SGD(lr=0.3))
    close(ours.with_dims(n=2).forward(data(2))["loss"], wanted.with_dims(n=2).forward(data(2))["loss"])
    for name in wanted.params:
        close(ours.params[name], wanted.params[name])


def test_weights_and_slots_are_saved_and_loaded(driver: CountingDriver, tmp_path: Path) -> None:
    net, optimizer = concatc.compile_source(JOINED, target="cuda"), concatc.SGD(lr=0.1, momentum=0.9)
    for _ in range(2):
        net.train_step(data(), optimizer=optimizer)
    net.save(tmp_path / "w.safetensors", optimizer=optimizer)
    other, again = concatc.compile_source(JOINED, target="cuda"), concatc.SGD(lr=0.1, momentum=0.9)
    other.load(tmp_path / "w.safetensors", optimizer=again)
    losses = [n.train_step(data(), optimizer=o) for n, o in ((net, optimizer), (other, again))]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(net.params["h.weight"], other.params["h.weight"])


def test_inputs_that_are_not_plain_labels_out_of_range_and_bound_arrays(driver: CountingDriver) -> None:
    ours, wanted = pair(JOINED)
    batch = data()
    ours.train_step(batch)
    strided = {"x": np.asfortranarray(batch["x"]), "label": batch["label"]}
    close(ours.train_step(strided)["loss"], wanted.train_step(strided)["loss"])
    with pytest.raises(concatc.UsageError, match="label"):
        ours.train_step(x=batch["x"], label=np.full(6, 5, np.int32))
    ours.bind(batch)
    batch["x"][...] = 2.0
    close(ours.train_step()["loss"], wanted.train_step(batch)["loss"])


def test_kept_blobs_and_gradients_of_inputs_and_outputs(driver: CountingDriver) -> None:
    options = {"keep": ["h"], "input_grads": True, "output_grads": ["logits"]}
    ours, wanted = pair(JOINED, **options)
    given = {"logits": np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)}
    gradients = []
    for net in (ours, wanted):
        net.forward(data())
        gradients.append(net.backward(output_grads=given))
    for name in gradients[1]:
        close(gradients[0][name], gradients[1][name])
    close(ours.blobs["h"].data, wanted.blobs["h"].data)
    close(ours.blobs["h"].grad, wanted.blobs["h"].grad)


def test_memory_is_given_back(driver: CountingDriver) -> None:
    net = concatc.compile_source(JOINED, target="cuda")
    weight = net.params["h.weight"]
    net.train_step(data(), optimizer=concatc.SGD(lr=0.1))
    before = driver.memory_info()[0]
    del net
    gc.collect()
    assert driver.memory_info()[0] > before
    del weight
    gc.collect()
    free, total = driver.memory_info()
    assert free == total


def test_parameters_may_be_read_while_a_step_is_recorded(driver: CountingDriver) -> None:
    """From another thread: what reads them waits, or its copy would become a part of the step."""
    net, begin = concatc.compile_source(JOINED, target="cuda"), driver.begin_capture
    begun: list[threading.Thread] = []

    def begin_and_read(stream: int) -> None:
        begin(stream)
        begun.append(threading.Thread(target=lambda: np.array(net.params["h.weight"])))
        if len(begun) == 3:  # forward, backward, then the step with its copies
            begun[2].start()
            begun[2].join(0.1)
            assert driver._streams[stream].captured == []

    driver.begin_capture = begin_and_read  # type: ignore[method-assign]
    losses = [net.train_step(data())["loss"] for _ in range(3)]
    begun[2].join()
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("form", ["small", "tiles"])
def test_what_is_asked_of_a_device_can_be_asked_here(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of `tests/test_cuda_gpu.py`: bases there and back, one graph."""
    monkeypatch.setattr(test_cuda_nets, "run_emulated", partial(run_on_device, device=EmulatedDriver))
    test_cuda_nets.test_nets_that_break_naive_planners("two_batches", form)


def test_threads_train_nets_of_their_own(driver: CountingDriver) -> None:
    nets = [concatc.compile_source(JOINED, target="cuda") for _ in range(2)]
    losses: list[list[float]] = [[], []]

    def train(k: int) -> None:
        optimizer = concatc.SGD(lr=0.1)
        losses[k] = [nets[k].train_step(data(), optimizer=optimizer)["loss"] for _ in range(3)]

    threads = [threading.Thread(target=train, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


# -- arrays of a device ------------------------------------------------------------------------------------------------
class OnDevice:
    """An array that another library holds on the device."""

    def __init__(self, driver: EmulatedDriver, values: np.ndarray, **said: Any) -> None:
        self.address = driver.allocate(values.nbytes)
        driver.bytes_at(self.address, values.nbytes)[...] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        shape, data = values.shape, (self.address, False)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": values.dtype.str,
            "data": data,
            "version": 2,
            **said,
        }


def test_arrays_of_a_device_are_inputs(driver: CountingDriver) -> None:
    """They are copied on the device; labels come here, where they are compared with what they may be."""
    ours, wanted = pair(JOINED)
    for step in range(2):
        batch = data(seed=step)
        given = {name: OnDevice(driver, array) for name, array in batch.items()}
        driver.asked.clear()
        close(ours.train_step(given)["loss"], wanted.train_step(batch)["loss"])
        assert driver.asked["download"] == 3  # the labels, the loss and the total
    close(ours.train_step(data(seed=5))["loss"], wanted.train_step(data(seed=5))["loss"])
    ours.bind(x=OnDevice(driver, data(seed=6)["x"]))
    close(ours.eval()["logits"], wanted.eval(x=data(seed=6)["x"])["logits"])
    close(ours.eval(x=data(seed=7)["x"])["logits"], wanted.eval(x=data(seed=7)["x"])["logits"])
    with pytest.raises(concatc.UsageError, match="label"):
        ours.train_step(x=given["x"], label=OnDevice(driver, np.full(6, 9, np.int32)))


def test_work_on_an_array_is_waited_for(driver: CountingDriver) -> None:
    """What another library has put on its stream is done before the array is read."""
    net = concatc.compile_source(JOINED, target="cuda")
    batch, stream = data(), driver.stream()
    x = OnDevice(driver, np.zeros((6, 9), np.float32), version=3, stream=stream)
    driver.upload(x.address, batch["x"].reshape(-1).view(np.uint8), stream)
    found = net.eval(x=x)["logits"]
    np.testing.assert_array_equal(found, net.eval(x=batch["x"])["logits"])


def test_arrays_of_a_device_that_cannot_be_read_are_refused(driver: CountingDriver) -> None:
    net = concatc.compile_source(JOINED, target="cuda")
    batch = data()
    wrong = {
        "lie in order": OnDevice(driver, batch["x"], strides=(4, 24)),
        "does not lie on the emulator": OnDevice(driver, batch["x"], data=(64, False)),
        "holds float64, but the net takes float32": OnDevice(driver, batch["x"].astype(np.float64)),
        r"has shape \[6, 8\]": OnDevice(driver, batch["x"][:, :8]),
    }
    for message, x in wrong.items():
        with pytest.raises(concatc.UsageError, match=message):
            net.eval(x=x)
    rows = OnDevice(driver, batch["x"], strides=(36, 4))
    assert net.eval(x=rows)["logits"].shape == (6, 5)


# -- errors ------------------------------------------------------------------------------------------------------------
def test_out_of_memory_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "chosen_driver", lambda: EmulatedDriver(total_bytes=2048))
    net = concatc.compile_source(JOINED, target="cuda")
    with pytest.raises(
        concatc.UsageError, match=r"no memory on the emulator for .* of inputs, outputs and arena"
    ) as said:
        net.train_step(data())
    assert "training of net joined(n=6) needs" in str(said.value)
    assert "help: choose a smaller batch size, or a budget: max_memory=.. (--max-memory)" in str(said.value)


class FaultyDriver(EmulatedDriver):
    """A kernel of this one faults; the device says so when somebody waits for it, and from then on."""

    faulty = "relu_grad"
    has_faulted = False

    def _run(self, function: int, grid: int, block: int, parameters: Parameters) -> None:
        self.has_faulted |= self.faulty in self._functions[function][0]
        if not self.has_faulted:
            super()._run(function, grid, block, parameters)

    def synchronize(self, stream: int) -> None:
        super().synchronize(stream)
        if self.has_faulted:
            raise DriverError("cuStreamSynchronize", 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access")


def test_a_fault_is_told_with_its_kernel_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "chosen_driver", FaultyDriver)
    net = concatc.compile_source(JOINED, target="cuda", filename="joined.cnet")
    with pytest.raises(
        concatc.ConcatcError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS .*\nhelp: CONCATC_CUDA_SYNC=1 says which"
    ):
        net.train_step(data())
    monkeypatch.setenv("CONCATC_CUDA_SYNC", "1")
    other = concatc.compile_source(JOINED, target="cuda", filename="joined.cnet")
    with pytest.raises(concatc.ConcatcError) as said:
        other.train_step(data())
    message = str(said.value)
    assert "relu_grad of the backward pass failed with CUDA_ERROR_ILLEGAL_ADDRESS" in message
    assert "line joined.cnet:5" in message


def test_launches_one_by_one_give_the_same(driver: CountingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    net = concatc.compile_source(JOINED, target="cuda")
    loss = net.train_step(data())["loss"]
    monkeypatch.setenv("CONCATC_CUDA_SYNC", "1")
    assert net.train_step(data())["loss"] == loss


def test_code_for_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(EmulatedDriver):
        def load(self, image: bytes, kernel: str) -> int:
            raise DriverError("cuModuleLoadData", 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available")

    monkeypatch.setattr(target, "chosen_driver", Older)
    net = concatc.compile_source(JOINED, target="cuda")
    with pytest.raises(concatc.ConcatcError, match="has no code for the emulator, which is sm_00: CUDA_ERROR_NO"):
        net.eval(x=data()["x"])
