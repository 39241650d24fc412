"""The rows of a runs' table, as they stand in the file."""

from __future__ import annotations

import csv
import gzip
import io


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(gzip.decompress(content).decode(), newline="")))


def packed(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode())
