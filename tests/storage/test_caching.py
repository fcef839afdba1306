"""Blobs of a bucket in memory: one copy for all readers, asked for in advance where somebody reads in order."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import IntegrityError, UnavailableError
from registry.memory import MemoryCache
from registry.storage import caching
from registry.storage.blobs import BlobStore, StoredBlob
from registry.storage.caching import CachedReader, CachingBlobs
from registry.storage.filesystem import FilesystemDriver
from registry.storage.reading import BlobReader
from tests.kit.servers import S3Place
from tests.kit.shim import Fault, Shim, flip_first_byte
from tests.storage.conftest import MakeS3

PIECE = 256 * 1024
COUNT = 20
DATA = random.Random(5).randbytes(COUNT * PIECE - 1000)
BLOBS = "/blobs/"  # not the block lists


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "PIECE", PIECE)


@pytest.fixture
def shim(s3_settings: S3Place) -> Iterator[Shim]:
    with Shim(s3_settings.endpoint) as shim:
        yield shim


@pytest.fixture
def store(make_s3: MakeS3, shim: Shim) -> BlobStore:
    return BlobStore(make_s3(shim.url))


@pytest.fixture
def blob(store: BlobStore, shim: Shim) -> StoredBlob:
    stored = store.put_bytes(DATA)
    assert shim.seen()
    shim.forget()
    return stored


def opened(store: BlobStore, memory: MemoryCache, blob: StoredBlob) -> CachedReader:
    reader = CachingBlobs(store, memory).open_blob(blob)
    assert isinstance(reader, CachedReader)
    return reader


def read(reader: CachedReader, start: int, stop: int) -> bytes:
    data = bytearray(stop - start)
    reader.read_into(start, memoryview(data))
    return bytes(data)


def at_rest() -> None:
    """What was asked for in advance is there."""
    barrier = threading.Barrier(caching.THREADS + 1)
    for _ in range(caching.THREADS):
        caching._pool().submit(barrier.wait)
    barrier.wait(120)


def gets(shim: Shim) -> int:
    return len(shim.seen("GET", BLOBS))


def test_a_blob_is_in_memory_once_however_many_read_it(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(1 << 30)
    readers = [opened(store, memory, blob) for _ in range(5)]
    got: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda one=one: got.extend(
                read(one, at, min(at + 100_000, len(DATA))) for at in range(0, len(DATA), 100_000)
            )
        )
        for one in readers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    at_rest()
    assert sorted(got) == sorted([DATA[at : at + 100_000] for at in range(0, len(DATA), 100_000)] * 5)
    assert gets(shim) == COUNT
    use = memory.use()["rows"]
    assert (use.bytes, use.entries, use.misses) == (len(DATA), COUNT, COUNT)
    for reader in readers:
        reader.close()
    later = opened(store, memory, blob)
    assert read(later, 0, len(DATA)) == DATA
    assert gets(shim) == COUNT


def test_bytes_of_one_piece_are_looked_at_where_they_are_kept(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(PIECE)  # keeps one
    memory_of_all = MemoryCache(1 << 30)
    reader = opened(store, memory_of_all, blob)
    first = reader.held(3 * PIECE + 5, 3 * PIECE + 900)
    again = reader.held(3 * PIECE, 3 * PIECE + 9)
    assert first is not None
    assert again is not None
    assert first.obj is again.obj
    assert bytes(first) == DATA[3 * PIECE + 5 : 3 * PIECE + 900]
    assert bytes(again) == DATA[3 * PIECE : 3 * PIECE + 9]
    assert gets(shim) == 1
    for start, stop in ((4 * PIECE - 1, 4 * PIECE + 1), (9, 9), (-1, 5), (len(DATA) - 5, len(DATA) + 1), (0, 100)):
        assert reader.held(start, stop) is None  # more than a piece, nothing, outside, or a header
    assert gets(shim) == 1
    small = CachedReader(store.open(blob), blob.key, memory)
    kept = small.held(5 * PIECE, 6 * PIECE)
    assert bytes(small.held(7 * PIECE, 8 * PIECE) or b"") == DATA[7 * PIECE : 8 * PIECE]
    assert bytes(kept or b"") == DATA[5 * PIECE : 6 * PIECE]  # dropped meanwhile, and there for who has it


def test_who_looks_in_order_gets_pieces_in_advance(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    reader = opened(store, MemoryCache(1 << 30), blob)
    for index in range(1, 4):
        start, stop = index * PIECE, (index + 1) * PIECE
        assert bytes(reader.held(start, stop) or b"") == DATA[start:stop]
    at_rest()
    assert gets(shim) > 3


def test_small_ranges_ask_for_one_piece_each(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, blob)
    for index in (17, 3, 9, 0):
        assert read(reader, index * PIECE + 5, index * PIECE + 1005) == DATA[index * PIECE + 5 : index * PIECE + 1005]
    at_rest()
    assert gets(shim) == 4
    border = 13 * PIECE
    assert read(reader, border - 10, border + 10) == DATA[border - 10 : border + 10]
    at_rest()
    assert gets(shim) == 6


def test_a_header_alone_brings_no_piece(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    """Of a model in many files a composed adapter needs the headers only."""
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, blob)
    assert read(reader, 0, 8) + read(reader, 8, 4000) == DATA[:4000]
    at_rest()
    assert memory.use()["rows"].entries == 0
    assert read(reader, 4000, PIECE) == DATA[4000:PIECE]
    assert read(reader, 0, 8) == DATA[:8]
    assert memory.use()["rows"].hits == 1


def test_one_who_reads_in_order_finds_the_next_pieces_there(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, blob)
    ahead = []
    for at in range(0, 8 * PIECE, PIECE // 4):
        assert read(reader, at, at + PIECE // 4) == DATA[at : at + PIECE // 4]
        at_rest()
        ahead.append(gets(shim) - at // PIECE - 1)
    assert ahead[0] == 0
    assert ahead[1] == 1  # half a piece was read in order
    assert ahead[::4][1:5] == [2, 4, 4, 8]
    assert max(ahead) == 8
    assert memory.use()["rows"].misses == gets(shim)


def test_several_who_read_in_order_are_told_apart(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, blob)
    for step in range(0, 2 * PIECE, PIECE // 4):
        for begin in (0, 10 * PIECE):
            read(reader, begin + step, begin + step + PIECE // 4)
    at_rest()
    assert {index for index in range(COUNT) if memory.has("rows", (blob.key, index))} == {
        0,
        1,
        2,
        3,
        4,
        5,
        10,
        11,
        12,
        13,
        14,
        15,
    }


def test_what_is_asked_for_in_advance_fits_the_budget(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    memory = MemoryCache(4 * PIECE)
    reader = opened(store, memory, blob)
    for at in range(0, len(DATA), PIECE // 2):
        stop = min(at + PIECE // 2, len(DATA))
        assert read(reader, at, stop) == DATA[at:stop]
        at_rest()
        assert memory.use()["rows"].bytes <= 4 * PIECE
    assert gets(shim) == COUNT


def test_a_long_read_asks_for_its_pieces_at_the_same_time(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    reader = opened(store, MemoryCache(1 << 30), blob)
    together = threading.Barrier(4)

    def meet(_: object) -> tuple[int, bytes]:
        together.wait(120)
        return 500, b""

    shim.faults = [Fault(method="GET", target=BLOBS, times=4, answer=meet)]
    with contextlib.suppress(UnavailableError):  # where all tries of a piece met the fault
        read(reader, 0, 4 * PIECE)
    at_rest()
    assert not together.broken
    shim.faults = []
    assert read(reader, 0, 4 * PIECE) == DATA[: 4 * PIECE]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="GET", target=BLOBS, change_answer=flip_first_byte),
        Fault(method="GET", target=BLOBS, cut_answer=1000),
    ],
)
def test_what_comes_damaged_or_cut_is_never_kept(store: BlobStore, blob: StoredBlob, shim: Shim, fault: Fault) -> None:
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, blob)
    shim.faults = [fault]
    for _ in range(2):
        with pytest.raises(UnavailableError):
            read(reader, 0, 3 * PIECE)
        at_rest()
    assert memory.use()["rows"].entries == 0
    shim.faults = []
    assert read(reader, 0, len(DATA)) == DATA


def test_a_body_that_breaks_off_is_taken_up(store: BlobStore, blob: StoredBlob, shim: Shim) -> None:
    reader = opened(store, MemoryCache(1 << 30), blob)
    shim.faults = [Fault(method="GET", target=BLOBS, cut_answer=1000, times=2)]
    assert read(reader, 0, 1000) == DATA[:1000]
    assert gets(shim) == 3


def test_ranges_outside_of_the_blob_are_refused(store: BlobStore, blob: StoredBlob) -> None:
    reader = opened(store, MemoryCache(1 << 30), blob)
    for start, stop in ((0, len(DATA) + 1), (len(DATA), len(DATA) + 1)):
        with pytest.raises(IntegrityError, match="were requested, but it has"):
            read(reader, start, stop)
    assert read(reader, len(DATA), len(DATA)) == b""


def test_a_folder_and_a_memory_that_is_turned_off_are_read_as_before(
    store: BlobStore, blob: StoredBlob, root: object
) -> None:
    assert isinstance(CachingBlobs(store, MemoryCache(0)).open_blob(blob), BlobReader)
    folder = BlobStore(FilesystemDriver(root))  # type: ignore[arg-type]
    place = folder.put_bytes(DATA)
    with CachingBlobs(folder, MemoryCache(1 << 30)).open_blob(place) as reader:  # type: ignore[union-attr]
        assert isinstance(reader, BlobReader)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    ranges=st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, len(DATA))), max_size=4),
    budget=st.integers(1, 12),
)
def test_any_ranges_in_any_order(
    store: BlobStore, blob: StoredBlob, ranges: list[tuple[int, int]], budget: int
) -> None:
    memory = MemoryCache(budget * PIECE)
    reader = opened(store, memory, blob)
    for one, other in ranges:
        start, stop = sorted((one, other))
        assert read(reader, start, stop) == DATA[start:stop]
    at_rest()
    assert memory.use()["rows"].bytes <= budget * PIECE


def test_large_pieces_are_whole(make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "PIECE", 9 * PIECE)
    store = BlobStore(make_s3())
    memory = MemoryCache(1 << 30)
    reader = opened(store, memory, store.put_bytes(DATA))
    assert read(reader, 100, len(DATA)) == DATA[100:]
    assert memory.use()["rows"].bytes == len(DATA)


def test_small_blobs_count_as_much_as_they_cost(make_s3: MakeS3) -> None:
    store, memory = BlobStore(make_s3()), MemoryCache(1 << 30)
    for data in (b"", b"small"):
        reader = opened(store, memory, store.put_bytes(data))
        assert read(reader, 0, len(data)) == data
    assert memory.use()["rows"].bytes == 4096
