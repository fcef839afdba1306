"""The body of a commit, in chunks of any size, against the whole of it parsed by json and base64."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import RegistryError, UnavailableError
from registry.hub.writing.documents import MOST_LINE, lines

TEXTS = st.text(max_size=40) | st.sampled_from(
    ['"content":"', '\\"content": "', '"content": "AAAA"', "a\nb", "content"]
)
DOCUMENTS = st.lists(
    st.tuples(st.dictionaries(TEXTS.filter(lambda key: key != "content"), TEXTS, max_size=3), st.binary() | st.none()),
    max_size=5,
)


def read(body: bytes, cuts: list[int], folder: Path) -> list[tuple[dict[str, Any], bytes | None]]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    chunks = [body[start:stop] for start, stop in itertools.pairwise(places)]
    found = []
    for line in lines(chunks, folder):
        data = None
        if line.content is not None:
            data = line.content.file.read_bytes()
            assert line.content.size == len(data)
            assert line.content.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        found.append((line.document, data))
    return found


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # how busy the machine is does not matter
@given(DOCUMENTS, st.lists(st.integers(0, 1 << 20), max_size=8), st.booleans(), st.booleans())
def test_it_is_read_as_json_and_base64_say(
    documents: list[tuple[dict[str, str], bytes | None]], cuts: list[int], first: bool, spaced: bool
) -> None:
    body = b""
    for fields, data in documents:
        content = {} if data is None else {"content": base64.b64encode(data).decode()}
        value = {**content, **fields} if first else {**fields, **content}
        separators = (", ", ": ") if spaced else (",", ":")
        body += json.dumps({"key": "file", "value": value}, separators=separators).encode() + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        found = read(body, cuts, Path(folder))
    expected = []
    for fields, data in documents:
        value = {**fields, **({} if data is None else {"content": ""})}
        expected.append(({"key": "file", "value": value}, data))
    assert found == expected


@pytest.mark.parametrize("size", range(8))
def test_a_chunk_may_end_anywhere(tmp_path: Path, size: int) -> None:
    """Also between the padding of a content and its closing quote."""
    data = bytes(range(size))
    line = json.dumps({"value": {"content": base64.b64encode(data).decode(), "path": "a"}}).encode()
    for cut in range(len(line) + 1):
        assert read(line, [cut], tmp_path) == [({"value": {"content": "", "path": "a"}}, data)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"content":"AAA"}', "usage"),
        (b'{"content":"AA=AAAAA"}', "usage"),
        (b'{"content":"A A A"}', "usage"),
        (b'{"content":"AAAA', "usage"),
        (b'{"content":"AAAA","x":{"content":"AAAA"}}', "usage"),
        (b"[1]", "usage"),
        (b"{", "usage"),
        (b'{"a":1,"a":2}', "usage"),
        (b'{"a":"' + b"x" * (2 * MOST_LINE) + b'"}', "too_large"),
        (b"{}\n" * 1002, "too_large"),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 7])
def test_what_is_no_commit_is_refused(tmp_path: Path, body: bytes, code: str, size: int) -> None:
    if size == 7 and len(body) > 10_000:
        size = 4096
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    with pytest.raises(RegistryError) as caught:
        list(lines(chunks, tmp_path))
    assert caught.value.code == code


def test_a_content_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="gone"):
        list(lines([b'{"content":"AAAA"}'], tmp_path / "gone"))


def test_a_large_content_passes_through_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    block = base64.b64encode(bytes(range(256)) * 3 * 1024)
    chunks = (one for one in [b'{"value":{"content":"', *[block] * 64, b'","path":"w"}}'])
    tracemalloc.start()
    (line,) = lines(chunks, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert line.content is not None
    assert line.content.size == 64 * 3 * (256 << 10)
    assert peak < 16 << 20
