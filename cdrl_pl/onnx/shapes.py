"""The shapes of everything that a graph computes, known before it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cdrl_pl.onnx.extra import OnnxError, needed

MAX_ELEMENTS = 2**24  # of what one node gives of a batch of BATCH
MAX_TOTAL = 2**26  # of what all nodes give of it
BATCH = 2
SMALL = 1024  # numbers of a tensor that may decide a shape


def inferred(path: Path, model: Any, inputs: set[str]) -> dict[str, tuple[int, ...]]:
    """The shape of every output of every node for a batch of ``BATCH``; changes the model.

    A graph of few bytes can ask for any memory (``Expand``, ``ConstantOfShape``, a product of two vectors), so that a
    shape that hangs on what is computed is refused, as is one beyond a policy's.

    Args:
        path: of the file, for the message.
        model: without graphs inside its nodes.
        inputs: names of those that are fed.

    Raises:
        OnnxError: a shape is not known, too large, or not as the operators have it.
    """
    onnx, graph = needed("onnx"), model.graph
    for port in graph.input:
        if port.name in inputs:
            port.type.tensor_type.shape.dim[0].dim_value = BATCH
    del graph.value_info[:]  # what a file claims is not asked
    for port in graph.output:
        port.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > SMALL:  # its numbers decide no shape
            for stored in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(stored)
    try:
        known = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except Exception as error:  # the checker's kinds have no base but this
        raise OnnxError(f"{path} is no graph that can be run: {' '.join(str(error).split())[:200]}") from None
    ports = {port.name: port.type.tensor_type for port in (*known.value_info, *known.output)}
    shapes: dict[str, tuple[int, ...]] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            shape = _shape(ports.get(name))
            if shape is None:
                raise OnnxError(
                    f"{path}: the shape of what {node.op_type} gives ({name[:100]!r}) is not known beforehand"
                )
            shapes[name] = shape
            if math.prod(shape) > MAX_ELEMENTS:
                raise OnnxError(f"{path}: {node.op_type} gives {list(shape)[:10]} of a batch of {BATCH}; refused")
    if sum(map(math.prod, shapes.values())) > MAX_TOTAL:
        raise OnnxError(f"{path} computes more than {MAX_TOTAL:,} numbers of a batch of {BATCH}; refused")
    if missing := [port.name for port in graph.output if port.name not in shapes]:
        raise OnnxError(f"{path}: the output {missing[0][:100]!r} is computed by no node")
    return shapes


def _shape(tensor: Any) -> tuple[int, ...] | None:
    """Its sizes; None where one is not known."""
    if tensor is None or not tensor.HasField("shape"):
        return None
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(int(dim.dim_value) for dim in tensor.shape.dim)
