"""ONNX Runtime and OpenVINO: inference on the PyTorch twin, exported with its parameters as constants."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.problem import Arrays, Problem
from benchmarks.systems import Start, Step, Values
from tests.twins import Twin, net_named

Run = Callable[[], list[np.ndarray]]


def exported(problem: Problem) -> tuple[bytes, Arrays, list[str]]:
    """The model, the inputs as it takes them, and the names of its outputs."""
    function = net_named(problem.work.twin_name)
    params = {name: torch.from_numpy(value) for name, value in problem.params.items()}
    states = {name: torch.from_numpy(value) for name, value in problem.states.items()}
    inputs = {k: x if x.dtype.kind == "f" else x.astype(np.int64) for k, x in problem.inputs_of("infer").items()}
    names: list[str] = []

    class Net(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = dict(zip(inputs, tensors, strict=True))
            others = {name: None for name in problem.inputs if name not in given}
            outputs = function(Twin.of(params, states, train=False), **given, **others)[1]
            names[:] = outputs
            return tuple(outputs.values())

    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        tensors = tuple(map(torch.from_numpy, inputs.values()))
        torch.onnx.export(Net().eval(), tensors, file, dynamo=False, input_names=list(inputs), opset_version=17)
    return file.getvalue(), inputs, names


def prepare(problem: Problem, phase: str, threads: int, *, engine: str) -> Start:
    """Both compute in float32, OpenVINO on CPUs with bfloat16, too."""
    assert phase == "infer"
    model, inputs, names = exported(problem)
    make = {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine]

    def start() -> Step:
        run = make(model, inputs, threads)
        outputs: list[np.ndarray] = []

        def infer() -> float:
            outputs[:] = run()
            return 0.0

        def values() -> Values:
            return {f"output/{name}": np.array(x) for name, x in zip(names, outputs, strict=True)}

        return Step(infer, values)

    return start


def _onnxruntime(model: bytes, inputs: Arrays, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    run: Run = lambda: session.run(None, inputs)  # noqa: E731
    return run


def _openvino(model: bytes, inputs: Arrays, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", config)
    request, count = compiled.create_infer_request(), len(compiled.outputs)

    def run() -> list[np.ndarray]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[k] for k in range(count)]

    return run
