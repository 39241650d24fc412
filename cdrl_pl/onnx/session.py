"""One graph, run on one thread of the CPU."""

from __future__ import annotations

from typing import Any

from cdrl_pl.onnx.extra import OnnxError, needed

PROVIDER = "CPUExecutionProvider"


def start(content: bytes, name: str) -> Any:
    """A session of onnxruntime; many processes may have one each, so that more threads would only be in the way.

    Args:
        content: of a file whose graph was checked, or made here.
        name: of the file, for the message.

    Raises:
        OnnxError: the runtime cannot run it.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        return runtime.InferenceSession(content, options, providers=[PROVIDER])
    except Exception as error:  # the runtime's own kinds have no base but this
        raise OnnxError(f"{name} cannot be run: {' '.join(str(error).split())[:300]}") from None
