"""The index of an exact file: what was written is read, and everything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.errors import InvalidAdapterError
from registry.files.source import BytesSource
from registry.tensors.exact.file_format import FRAME, ExactIndex, read_index, write_index


def _read(data: bytes) -> ExactIndex:
    return read_index(BytesSource(data, "it"), what="model.exact", error=InvalidAdapterError)


def _file(document: Any, frames: int = 30) -> bytes:
    raw = json.dumps(document).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(frames)


def _with(**changes: Any) -> dict[str, Any]:
    tensor = {"dtype": "BF16", "shape": [4, 3], "frames": [30]} | changes
    return {"format": 1, "tensors": {"a": {key: value for key, value in tensor.items() if value is not None}}}


def test_what_was_written_is_read() -> None:
    lead = write_index([("a", "BF16", (FRAME,), (10, 20)), ("b", "F32", (3, 2), (7,))], 400)
    assert len(lead) >= 400
    assert len(lead) % 8 == 0
    found = _read(lead + bytes(37))
    a, b = found.entries["a"], found.entries["b"]
    assert (a.start, a.frames, a.size, a.size_of(1)) == (len(lead), (10, 20), 2 * FRAME, FRAME)
    assert (b.start, b.shape, b.size_of(0)) == (len(lead) + 30, (3, 2), 24)
    assert found.parameters == FRAME + 6
    assert found.bytes_of_tensors == 2 * FRAME + 24


@pytest.mark.parametrize(
    "data",
    [
        b"",
        (1 << 40).to_bytes(8, "little") + b"{}",
        _file([]),
        _file({"format": 1}),
        _file(_with() | {"format": 2}),
        _file(_with() | {"more": 1}),
        _file({"format": 1, "tensors": {}}, 0),
        _file(_with(), 29),
        _file(_with(), 31),
        _file(_with(dtype="C64")),
        _file(_with(dtype="nonsense")),
        _file(_with(dtype=None)),
        _file(_with(shape=[4, -3])),
        _file(_with(shape=[0, 3])),
        _file(_with(shape=[True, 3])),
        _file(_with(shape=[1] * 17)),
        _file(_with(shape=[1 << 40, 1 << 40])),
        _file(_with(frames=[15, 15])),
        _file(_with(frames=[])),
        _file(_with(frames=[0])),
        _file(_with(frames=[-30])),
        _file(_with(frames=[5000]), 5000),
        _file(_with(extra=1)),
        _file({"format": 1, "tensors": {"a" * 2000: {"dtype": "BF16", "shape": [4, 3], "frames": [30]}}}),
        _file({"format": 1, "tensors": {"a": []}}),
        b'{"format":1',
    ],
)  # fmt: skip
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidAdapterError) as refused:
        _read(data)
    assert refused.value.code == "bad_exact"
    assert "model.exact" in str(refused.value)
