"""What an offline run of W&B has written: its records, in a file of the format that LevelDB's logs have."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BLOCK, FILE_HEADER, HEADER = 32768, 7, 7  # bytes
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of a chunk


def records(file: Path) -> Iterator[Any]:
    """The protocol buffers of a ``.wandb`` file, in order."""
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason='needs pip install "cdrl-pl[wandb]"')
    content, at, parts = file.read_bytes(), FILE_HEADER, b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # too little is left for a chunk
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        assert kind in (FULL, FIRST, MIDDLE, LAST), kind
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            record = protocol.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
