"""Small ONNX graphs, friendly and hostile; without the extra, the tests that need them are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHY = 'needs pip install "cdrl-pl[onnx]"'
onnx = pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxruntime", reason=WHY)
helper, numpy_helper, Kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto
WEIGHT = np.array([[1, -1], [0, 2], [3, 0], [-1, 1]], np.float32)


def port(name: str, shape: list[Any], kind: int = Kind.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(output: str = "logits") -> Any:
    """obs [batch, 4] times ``WEIGHT``."""
    node = helper.make_node("MatMul", ["obs", "weight"], [output])
    return model([node], outputs=[port(output, ["batch", 2])])


def counting() -> Any:
    """Logits are the first two numbers of obs plus h, and h counts the steps."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weight"], ["seen"]),
        helper.make_node("Add", ["seen", "h"], ["logits"]),
        helper.make_node("Add", ["h", "one"], ["h_out"]),
        helper.make_node("ReduceSum", ["obs", "axis"], ["value"], keepdims=0),
    ]
    more = [numpy_helper.from_array(np.ones(1, np.float32), "one"), numpy_helper.from_array(np.array([1]), "axis")]
    outputs = [port("logits", ["batch", 2]), port("value", ["batch"]), port("h_out", ["batch", 2])]
    return model(nodes, [port("obs", ["batch", 4]), port("h", ["batch", 2])], outputs, more)


def model(nodes: list[Any], inputs: Any = None, outputs: Any = None, more: Any = (), **options: Any) -> Any:
    """A model of nodes that read ``weight`` [4, 2]."""
    inputs, outputs = inputs or [port("obs", ["batch", 4])], outputs or [port("logits", ["batch", 2])]
    stored = [numpy_helper.from_array(WEIGHT, "weight"), *more]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, stored)
    options.setdefault("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, ir_version=9, **options)


def save(path: Path, made: Any) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


# Hostile ones, and what is said of each


def external() -> Any:
    made = linear()
    (weight,) = made.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = Kind.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    return made


def external_in_a_node() -> Any:
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "inner")
    tensor.external_data.add(key="location", value="elsewhere")
    return model([helper.make_node("Constant", [], ["c"], value=tensor), *linear().graph.node])


def custom_domain(domain: str = "com.evil") -> Any:
    node = helper.make_node("Gemm", ["obs", "weight"], ["logits"], domain=domain)
    return model([node], opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)])


def hidden_domain() -> Any:
    """The domain stands at a node alone."""
    return model([helper.make_node("Gemm", ["obs", "weight"], ["logits"], domain="com.evil")])


def functions() -> Any:
    opset = [helper.make_opsetid("", 18)]
    function = helper.make_function("", "Own", ["x"], ["y"], [helper.make_node("Elu", ["x"], ["y"])], opset)
    return model([*linear().graph.node], functions=[function])


def claimed(shape: list[int]) -> Any:
    """A tensor that brings four bytes."""
    made = linear()
    made.graph.initializer.add(name="huge", data_type=Kind.FLOAT, dims=shape, raw_data=bytes(4))
    return made


def string_tensor() -> Any:
    made = linear()
    made.graph.initializer.add(name="text", data_type=Kind.STRING, dims=[1], string_data=[b"a"])
    return made


def loop() -> Any:
    body = helper.make_graph([], "body", [port("i", [], Kind.INT64)], [])
    return model([helper.make_node("Loop", ["obs"], ["x"], body=body), *linear().graph.node])


def expand(size: int = 2**20) -> Any:
    """A shape of 8 TB out of 16 bytes."""
    shape = numpy_helper.from_array(np.array([size, size]), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["obs", "weight"], ["seen"]),
        helper.make_node("Add", ["seen", "sum"], ["logits"]),
    ]
    return model(nodes, more=[shape])


def outer() -> Any:
    """The product of two vectors of 400 kB is 40 GB."""
    column = numpy_helper.from_array(np.ones((10**5, 1), np.float32), "column")
    row = numpy_helper.from_array(np.ones((1, 10**5), np.float32), "row")
    nodes = [
        helper.make_node("MatMul", ["column", "row"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["obs", "weight"], ["seen"]),
        helper.make_node("Add", ["seen", "sum"], ["logits"]),
    ]
    return model(nodes, more=[column, row])


def as_observed() -> Any:
    """As many numbers as the observation says."""
    nodes = [
        helper.make_node("NonZero", ["obs"], ["places"]),
        helper.make_node("ReduceSum", ["places"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["number"], to=Kind.FLOAT),
        helper.make_node("MatMul", ["obs", "weight"], ["seen"]),
        helper.make_node("Add", ["seen", "number"], ["logits"]),
    ]
    return model(nodes)


def unknown_operator() -> Any:
    return model([helper.make_node("Teleport", ["obs", "weight"], ["logits"])])


def other_name() -> Any:
    made = linear()
    made.graph.input[0].name = made.graph.node[0].input[0] = "x"
    return made


def with_inputs(*inputs: Any) -> Any:
    return model([*linear().graph.node], [*inputs])


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "external": (external, r"'weight' lies in another file \(external data\)"),
    "external_in_a_node": (external_in_a_node, r"'inner' lies in another file \(external data\)"),
    "custom_domain": (custom_domain, "operators of the domain 'com.evil'"),
    "hidden_domain": (hidden_domain, "operators of the domain 'com.evil'"),
    "machine_learning": (lambda: custom_domain("ai.onnx.ml"), "operators of the domain 'ai.onnx.ml'"),
    "functions": (functions, "functions of its own"),
    "huge": (lambda: claimed([2**20, 2**20]), r"'huge' of shape \[1048576, 1048576\] makes more than"),
    "overflowing": (lambda: claimed([2**62, 2**62]), "'huge' of shape .* makes more than"),
    "lying": (lambda: claimed([100]), r"'huge' of shape \[100\] brings 1 numbers"),
    "negative": (lambda: claimed([-1]), r"'huge' has the shape \[-1\]"),
    "strings": (string_tensor, "'text' is of the type STRING"),
    "loop": (loop, r"a graph within a graph \(Loop\)"),
    "expand": (expand, r"ConstantOfShape gives \[1048576, 1048576\]"),
    "outer": (outer, r"MatMul gives \[100000, 100000\]"),
    "as_observed": (as_observed, "the shape of what NonZero gives .* is not known"),
    "unknown_operator": (unknown_operator, "the shape of what Teleport gives .* is not known"),
    "fixed_batch": (lambda: with_inputs(port("obs", [1, 4])), "'obs' must have a first dimension of any size"),
    "unknown_size": (lambda: with_inputs(port("obs", ["batch", "n"])), r"'obs' has the shape \[batch, 0\]"),
    "huge_input": (lambda: with_inputs(port("obs", ["batch", 2**40])), "'obs' has the shape .* refused"),
    "other_name": (other_name, "has no input 'obs'; it has x"),
    "text_input": (lambda: with_inputs(port("obs", ["batch", 4], Kind.STRING)), "no graph that can be run"),
    "no_state": (
        lambda: with_inputs(port("obs", ["batch", 4]), port("mask", ["batch", 2])),
        "'mask' is no recurrent state",
    ),
    "other_output": (lambda: linear("actions"), "has no output 'logits'; it has actions"),
}
