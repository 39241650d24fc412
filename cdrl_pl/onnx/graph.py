"""Graphs of strangers: what is asked of one, and what is looked at before anything of its size is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cdrl_pl.checks import check_options
from cdrl_pl.onnx.extra import OnnxError, needed
from cdrl_pl.onnx.shapes import MAX_ELEMENTS, inferred
from cdrl_pl.storage.verified import sha256

OBS, LOGITS, VALUE, OUT = "obs", "logits", "value", "_out"
MAX_BYTES = 2**29  # of a file, and of all its tensors
DOMAINS = ("", "ai.onnx")  # two names of the one whose operators the runtime has by itself
SIZES = {  # bytes of a number, by ONNX's name of its type
    "FLOAT": 4, "DOUBLE": 8, "FLOAT16": 2, "BFLOAT16": 2, "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2,
    "UINT32": 4, "INT32": 4, "UINT64": 8, "INT64": 8,
}  # fmt: skip
OBSERVED = {"UINT8": "uint8", "FLOAT": "float32"}


@dataclass(frozen=True)
class GraphOptions:
    """How a graph is read.

    Attributes:
        output: Name of the output that decides: "logits" are those of a policy, "q" are Q-values, over which a softmax
            is sampled.
        temperature: What logits or Q-values are divided by; of Q-values in points.
        divisor: What pictures (uint8) are divided by where the graph reads float32.
        names: The graph's own names of what is called obs, logits, q, value, and of recurrent states and what they are
            afterwards (h and h_out, any number of them), by the names here.
    """

    output: Literal["logits", "q"] = "logits"
    temperature: float = 1.0
    divisor: float = 255.0
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = [word for pair in self.names.items() for word in pair] if isinstance(self.names, dict) else [None]
        numbers = {name: getattr(self, name) for name in ("temperature", "divisor")}
        rows = [
            (name, isinstance(value, int | float) and 0 < value < math.inf, "above 0, and finite")
            for name, value in numbers.items()
        ]
        rows += [
            ("output", self.output in (LOGITS, "q"), "logits or q"),
            ("names", all(isinstance(word, str) for word in words), "a mapping of names to the graph's own"),
        ]
        check_options("policy_options.", self, rows)


def graph_options(given: Mapping[str, Any]) -> GraphOptions:
    """The options of a config or of a certificate.

    Raises:
        ConfigError: one is not known, or its value is not allowed.
    """
    known = [f.name for f in fields(GraphOptions)]
    if unknown := [name for name in given if name not in known]:
        raise OnnxError(f"policy_options has {unknown[0]!r}; a graph has {', '.join(known)}")
    return GraphOptions(**given)


@dataclass(frozen=True)
class Graph:
    """A graph that was looked at.

    Attributes:
        content: of the file.
        obs_shape: of one observation.
        obs_dtype: that the graph reads, uint8 or float32.
        num_actions: number of actions, A.
        states: width of every recurrent state, by its name here.
        valued: whether it gives a value.
        metadata: what stands beside the graph.
    """

    content: bytes
    obs_shape: tuple[int, ...]
    obs_dtype: str
    num_actions: int
    states: dict[str, int]
    valued: bool
    metadata: dict[str, str]


def read_graph(path: Path, options: GraphOptions, checksum: str | None = None) -> Graph:
    """A graph from its file, looked at before it is run.

    Args:
        path: of the file.
        options: how it is read.
        checksum: its SHA-256, in hexadecimal digits; None: it is not known.

    Raises:
        OnnxError: the file cannot be read, is another than it was, or holds what is refused: tensors in other files,
            operators of other domains, functions and graphs of its own, more numbers than a policy has, shapes that are
            not known before it runs, or other inputs and outputs than a policy's.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise OnnxError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read")
        content = path.read_bytes()
    except OSError as error:
        raise OnnxError(f"{path} cannot be read: {error.strerror}") from None
    if checksum is not None and (found := sha256(content)) != checksum:
        raise OnnxError(f"{path} has SHA-256 {found}, it must have {checksum}: changed or damaged")
    onnx = needed("onnx")
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's kinds have no base but this
        raise OnnxError(f"{path} is no ONNX graph: {' '.join(str(error).split())[:200]}") from None
    if not model.graph.node:
        raise OnnxError(f"{path} is no ONNX graph: it has no nodes")
    _check_model(path, model)
    for tensors in _tensors(path, model):
        _check_tensors(path, tensors)
    inputs = _ports(path, model, model.graph.input, {tensor.name for tensor in model.graph.initializer}, options)
    shapes = inferred(path, model, {port.name for port in inputs.values()})
    outputs = {_own(port.name, options): (port, shapes[port.name]) for port in model.graph.output}
    return _policy(path, content, model, inputs, outputs, options)


def _check_model(path: Path, model: Any) -> None:
    """Refuses what a policy has no need for, and what could run code or without end."""
    domains = [entry.domain for entry in (*model.opset_import, *model.graph.node) if entry.domain not in DOMAINS]
    if domains:
        raise OnnxError(f"{path} has operators of the domain {domains[0][:100]!r}; only ONNX's own are run")
    for what, there in (("functions", model.functions), ("training_info", model.training_info)):
        if there:
            raise OnnxError(f"{path} has {what} of its own; only plain graphs are run")
    if model.graph.sparse_initializer:
        raise OnnxError(f"{path} has sparse initializers; only dense ones are read")
    for node in model.graph.node:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise OnnxError(f"{path} has a graph within a graph ({node.op_type}); loops and branches are not run")
        if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
            raise OnnxError(f"{path} has a sparse tensor ({node.op_type}); only dense ones are read")


def _tensors(path: Path, model: Any) -> Iterator[list[Any]]:
    """The initializers, then the tensors within nodes."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    yield [
        *model.graph.initializer,
        *(attribute.t for attribute in attributes if attribute.HasField("t")),
        *(tensor for attribute in attributes for tensor in attribute.tensors),
    ]


def _check_tensors(path: Path, tensors: list[Any]) -> None:
    """Refuses tensors in other files, and those that claim more numbers than they bring."""
    kinds, total = needed("onnx").TensorProto.DataType, 0
    for tensor in tensors:
        where = f"{path}: the tensor {tensor.name[:100]!r}"
        if tensor.external_data or tensor.data_location:
            raise OnnxError(f"{where} lies in another file (external data); refused")
        kind = kinds.Name(tensor.data_type) if tensor.data_type in kinds.values() else str(tensor.data_type)
        if kind not in SIZES:
            raise OnnxError(f"{where} is of the type {kind}; open are {', '.join(SIZES)}")
        if any(dim < 0 for dim in tensor.dims):
            raise OnnxError(f"{where} has the shape {list(tensor.dims)[:10]}; refused")
        count = math.prod(tensor.dims)
        total += count * SIZES[kind]
        if total > MAX_BYTES:
            raise OnnxError(f"{where} of shape {list(tensor.dims)[:10]} makes more than {MAX_BYTES:,} bytes; refused")
        stored = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        brought = len(tensor.raw_data) // SIZES[kind] if tensor.HasField("raw_data") else max(map(len, stored))
        if brought != count:
            raise OnnxError(f"{where} of shape {list(tensor.dims)[:10]} brings {brought:,} numbers; refused")


def _own(name: str, options: GraphOptions) -> str:
    """The name here of what a graph calls ``name``."""
    return {theirs: own for own, theirs in options.names.items()}.get(name, name)


def _ports(path: Path, model: Any, ports: Any, stored: set[str], options: GraphOptions) -> dict[str, Any]:
    """The inputs by their names here; of batches of any size, and otherwise of known sizes."""
    found = {}
    for port in ports:
        if port.name in stored:  # older graphs name their initializers among the inputs
            continue
        batch, *dims = port.type.tensor_type.shape.dim or [None]
        if batch is None or batch.HasField("dim_value"):
            raise OnnxError(f"{path}: the input {port.name!r} must have a first dimension of any size, the batch's")
        sizes = [dim.dim_value for dim in dims]
        if not sizes or min(sizes) < 1 or math.prod(sizes) > MAX_ELEMENTS:
            raise OnnxError(f"{path}: the input {port.name!r} has the shape [batch, {str(sizes)[1:100]}; refused")
        found[_own(port.name, options)] = port
    return found


def _policy(
    path: Path,
    content: bytes,
    model: Any,
    inputs: dict[str, Any],
    outputs: dict[str, tuple[Any, tuple[int, ...]]],
    options: GraphOptions,
) -> Graph:
    """What the inputs and outputs make of the graph.

    Raises:
        OnnxError: they are not those of a policy.
    """
    kinds = needed("onnx").TensorProto.DataType
    if OBS not in inputs:
        raise OnnxError(f"{path} has no input {options.names.get(OBS, OBS)!r}; it has {', '.join(inputs)[:200]}")
    if options.output not in outputs:
        wanted = options.names.get(options.output, options.output)
        raise OnnxError(f"{path} has no output {wanted!r}; it has {', '.join(outputs)[:200]} (policy_options.names)")
    kind = kinds.Name(inputs[OBS].type.tensor_type.elem_type)
    if kind not in OBSERVED:
        raise OnnxError(f"{path}: the input {inputs[OBS].name!r} is {kind}; open are {', '.join(OBSERVED)}")
    sizes = {name: [dim.dim_value for dim in port.type.tensor_type.shape.dim[1:]] for name, port in inputs.items()}
    states = {}
    for name in inputs:
        if name == OBS:
            continue
        shape = outputs[name + OUT][1] if name + OUT in outputs else None
        if len(sizes[name]) != 1 or shape is None or shape[1:] != (sizes[name][0],) or _kind(inputs[name]) != 1:
            raise OnnxError(
                f"{path}: the input {name!r} is no recurrent state: float32 [batch, width], an output {name + OUT!r}"
            )
        states[name] = sizes[name][0]
    for name in (options.output, *(VALUE for _ in outputs if VALUE in outputs), *(state + OUT for state in states)):
        if _kind(outputs[name][0]) != 1:
            raise OnnxError(f"{path}: the output {outputs[name][0].name!r} must be float32")
    decided = outputs[options.output][1]
    if len(decided) != 2 or decided[1] < 1:
        raise OnnxError(f"{path}: the output {options.output!r} must be [batch, actions]")
    if VALUE in outputs and math.prod(outputs[VALUE][1][1:]) != 1:
        raise OnnxError(f"{path}: the output {VALUE!r} must be [batch], or [batch, 1]")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    shape = tuple(sizes[OBS])
    return Graph(content, shape, OBSERVED[kind], decided[1], states, VALUE in outputs, metadata)


def _kind(port: Any) -> int:
    return int(port.type.tensor_type.elem_type)
