"""SGD and Adam: against their formulas in float64, multipliers, run-time rates, slots in checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import concatc

NET = """
net small(n = 8) {
    input x: f32[n, 5]
    input t: f32[n, 3]
    h = x |> linear(7, weight_lr=2, bias_decay=0) @hidden |> tanh
    y = linear(h, 3, bias_lr=0) @out
    loss mse_loss(y, t)
}
"""
LR = {"hidden.weight": 2.0, "hidden.bias": 1.0, "out.weight": 1.0, "out.bias": 0.0}
DECAY = {"hidden.weight": 1.0, "hidden.bias": 0.0, "out.weight": 1.0, "out.bias": 1.0}
TARGETS = ("reference", "cpu")
Arrays = dict[str, np.ndarray]


def compiled(target: str) -> concatc.CompiledModule:
    net = concatc.compile_source(NET, filename="small.cnet", target=target, dtype="f64")
    net.init(seed=1)
    return net


def batch(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(8, 5)), "t": rng.normal(size=(8, 3))}


def sgd(lr: float, momentum: float, decay: float, nesterov: bool = False) -> Callable[[Arrays, Arrays, Arrays], None]:
    def step(params: Arrays, grads: Arrays, state: Arrays) -> None:
        for name, g in grads.items():
            g = g + decay * DECAY[name] * params[name]
            v = state[name] = momentum * state.get(name, 0.0) + g
            params[name] = params[name] - lr * LR[name] * (g + momentum * v if nesterov else v)

    return step


def adam(lr: float, beta1: float, beta2: float, eps: float, decay: float) -> Callable[[Arrays, Arrays, Arrays], None]:
    def step(params: Arrays, grads: Arrays, state: Arrays) -> None:
        t = state["t"] = state.get("t", 0) + 1
        for name, g in grads.items():
            g = g + decay * DECAY[name] * params[name]
            m = state[f"m {name}"] = beta1 * state.get(f"m {name}", 0.0) + (1 - beta1) * g
            s = state[f"s {name}"] = beta2 * state.get(f"s {name}", 0.0) + (1 - beta2) * g * g
            corrected = np.sqrt(s / (1 - beta2**t)) + eps
            params[name] = params[name] - lr * LR[name] * (m / (1 - beta1**t)) / corrected

    return step


CASES = {
    "plain": (lambda: concatc.SGD(0.1), sgd(0.1, 0, 0)),
    "decay": (lambda: concatc.SGD(0.1, weight_decay=0.01), sgd(0.1, 0, 0.01)),
    "momentum": (lambda: concatc.SGD(0.1, momentum=0.9, weight_decay=0.01), sgd(0.1, 0.9, 0.01)),
    "nesterov": (lambda: concatc.SGD(0.1, 0.9, 0.01, nesterov=True), sgd(0.1, 0.9, 0.01, nesterov=True)),
    "adam": (lambda: concatc.Adam(0.01, (0.8, 0.95), 1e-6, 0.01), adam(0.01, 0.8, 0.95, 1e-6, 0.01)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_steps_equal_their_formulas(case: str, target: str) -> None:
    make, formula = CASES[case]
    net, optimizer = compiled(target), make()
    other = compiled("reference")
    params = {name: p.copy() for name, p in other.params.items()}
    state: Arrays = {}
    for seed in range(4):
        for name, p in params.items():
            other.params[name] = p
        other.train_step(batch(seed))
        formula(params, {name: g.copy() for name, g in other.grads.items()}, state)
        net.train_step(batch(seed), optimizer=optimizer)
    for name, p in params.items():
        np.testing.assert_allclose(net.params[name], p, rtol=1e-12, atol=1e-13, err_msg=name)
    assert np.array_equal(net.params["out.bias"], np.zeros(3)), "a rate of 0 freezes a parameter"


@pytest.mark.parametrize("target", TARGETS)
def test_forward_backward_step_equals_train_step(target: str) -> None:
    apart, together = compiled(target), compiled(target)
    one, other = concatc.Adam(0.01), concatc.Adam(0.01)
    for seed in range(3):
        apart.forward(batch(seed))
        apart.backward()
        apart.step(one)
        together.train_step(batch(seed), optimizer=other)
    assert all(np.array_equal(apart.params[name], p) for name, p in together.params.items())


def test_without_an_optimizer_parameters_stay() -> None:
    net = compiled("cpu")
    before = {name: p.copy() for name, p in net.params.items()}
    net.train_step(batch())
    assert all(np.array_equal(before[name], p) for name, p in net.params.items())
    assert np.abs(net.grads["hidden.weight"]).max() > 0


def test_rates_change_at_run_time() -> None:
    net, optimizer = compiled("cpu"), concatc.SGD(0.1)
    net.train_step(batch(), optimizer=optimizer)
    before = {name: p.copy() for name, p in net.params.items()}
    optimizer.lr = 0.0
    net.train_step(batch(), optimizer=optimizer)
    assert all(np.array_equal(before[name], p) for name, p in net.params.items())


def test_one_optimizer_trains_two_nets() -> None:
    shared, own = concatc.SGD(0.1, momentum=0.9), concatc.SGD(0.1, momentum=0.9)
    one, two, alone = compiled("cpu"), compiled("cpu"), compiled("cpu")
    for seed in range(3):
        one.train_step(batch(seed), optimizer=shared)
        two.train_step(batch(seed + 10), optimizer=shared)
        alone.train_step(batch(seed), optimizer=own)
    assert all(np.array_equal(one.params[name], p) for name, p in alone.params.items())


def test_neighbours_with_equal_multipliers_are_one_launch() -> None:
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 3]; loss mean(x |> linear(5) |> linear(5) |> linear(1)) as m }", target="cpu"
    )
    optimizer = concatc.SGD(0.1)
    net.train_step(x=np.ones((2, 3), np.float32), optimizer=optimizer)
    (state,) = net._optimizers.values()
    assert len(state.plan().launches) == 1


def test_wrong_optimizers_are_explained() -> None:
    net = compiled("reference")
    with pytest.raises(concatc.UsageError, match="optimizer is a str"):
        net.train_step(batch(), optimizer="sgd")  # type: ignore[arg-type]
    with pytest.raises(concatc.UsageError, match="needs a momentum"):
        concatc.SGD(0.1, nesterov=True)
    with pytest.raises(concatc.UsageError, match="betas"):
        concatc.Adam(betas=(0.9, 1.0))
    optimizer = concatc.SGD(0.1)
    optimizer.momentum = 0.9
    with pytest.raises(concatc.UsageError, match="made without momentum"):
        net.train_step(batch(), optimizer=optimizer)


@pytest.mark.peers
@pytest.mark.parametrize("case", ["momentum", "nesterov", "adam"])
def test_steps_equal_those_of_torch(case: str) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `peers`)")
    source = NET.replace(", weight_lr=2, bias_decay=0", "").replace(", bias_lr=0", "")
    net = concatc.compile_source(source, target="cpu", dtype="f64")
    net.init(seed=1)
    p = {name: torch.tensor(value.copy(), requires_grad=True) for name, value in net.params.items()}
    theirs = {
        "momentum": lambda ps: torch.optim.SGD(ps, 0.1, 0.9, weight_decay=0.01),
        "nesterov": lambda ps: torch.optim.SGD(ps, 0.1, 0.9, weight_decay=0.01, nesterov=True),
        "adam": lambda ps: torch.optim.Adam(ps, 0.01, (0.8, 0.95), 1e-6, 0.01),
    }[case](list(p.values()))
    ours = CASES[case][0]()
    for seed in range(5):
        data = batch(seed)
        net.train_step(data, optimizer=ours)
        x, t = torch.tensor(data["x"]), torch.tensor(data["t"])
        h = torch.tanh(x @ p["hidden.weight"].T + p["hidden.bias"])
        loss = torch.nn.functional.mse_loss(h @ p["out.weight"].T + p["out.bias"], t)
        theirs.zero_grad()
        loss.backward()
        theirs.step()
    for name, value in p.items():
        np.testing.assert_allclose(net.params[name], value.detach().numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("make", [lambda: concatc.SGD(lr=0.1, momentum=0.9), lambda: concatc.Adam(lr=0.1)])
def test_init_starts_optimizers_anew(make: Callable[[], concatc.SGD | concatc.Adam]) -> None:
    net, optimizer = compiled("reference"), make()
    seen = []
    for _ in range(2):
        net.init(3)
        for k in range(3):
            net.train_step(batch(k), optimizer=optimizer)
        seen.append({name: value.copy() for name, value in net.params.items()})
    for name, value in seen[0].items():
        np.testing.assert_array_equal(value, seen[1][name])


def test_a_step_needs_a_backward_since_the_last() -> None:
    net, optimizer = compiled("reference"), concatc.SGD(lr=0.1)

    def refused() -> bool:
        with pytest.raises(concatc.UsageError, match="needs a backward"):
            net.step(optimizer)
        return True

    assert refused()
    net.forward(batch())
    assert refused()
    net.backward()
    net.step(optimizer)
    assert refused()
    net.train_step(batch())
    net.step(optimizer)
    net.train_step(batch(), optimizer=optimizer)
    assert refused()
    net.train_step(batch())
    net.init(1)
    assert refused()


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "0.1", None, True])
@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_scalars_are_checked_when_made_and_when_set(name: str, value: object) -> None:
    with pytest.raises(concatc.UsageError, match=rf"SGD: {name} must be a .*number"):
        concatc.SGD(**{name: value})
    optimizer = concatc.SGD(lr=0.1, momentum=0.5)
    with pytest.raises(concatc.UsageError, match=rf"SGD: {name} must be a .*number"):
        setattr(optimizer, name, value)
    assert repr(optimizer) == "SGD(lr=0.1, momentum=0.5, weight_decay=0.0, nesterov=False)"


def test_momentum_is_at_most_1_and_adam_is_checked_too() -> None:
    with pytest.raises(concatc.UsageError, match="SGD: momentum must be a number from 0 to 1, not 5"):
        concatc.SGD(momentum=5)
    for wrong in ({"lr": -1}, {"eps": float("nan")}, {"betas": 0.9}, {"betas": ("a", 0.9)}, {"betas": (0.9, 1.0)}):
        with pytest.raises(concatc.UsageError, match="Adam: "):
            concatc.Adam(**wrong)
    assert concatc.SGD(lr=np.float32(0.5), momentum=np.float64(1)).lr == 0.5
