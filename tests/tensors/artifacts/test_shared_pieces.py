"""Pieces that several readers share: made once, and the bytes are those that each would have made."""

from __future__ import annotations

import threading
import time

import pytest

from registry.errors import IntegrityError, RegistryError, UnavailableError
from registry.memory import MemoryCache
from registry.tensors.artifacts.artifact import ArtifactFile, Region, SharedPieces
from tests.kit import plain_base, write_chain
from tests.kit.shelf import Shelf, core_artifact

SHAPES = {"a.weight": (600, 2050), "b.weight": (1100, 1030)}  # several blocks each


@pytest.mark.parametrize("kind", ["merged", "lora"])
@pytest.mark.parametrize("budget", [0, 48 << 20, 1 << 30])
def test_shared_bytes_are_the_same_bytes(shelf: Shelf, kind: str, budget: int) -> None:
    base = shelf.base("shared", plain_base, shapes=SHAPES, dtype="F32")
    reference = shelf.path("shared", write_chain(shelf.folder(), base, 2, ["a", "b"], r=5))
    memory = MemoryCache(budget)
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        for path, file in artifact.files.items():
            data = file.read()
            shared = SharedPieces(memory, artifact.rendering, path)
            for start in (0, 1, len(data) // 3, len(data) - 1):
                for stop in (len(data), min(len(data), start + 100)):
                    assert b"".join(file.chunks(start, stop, shared=shared)) == data[start:stop]
    assert (memory.use()["piece"].bytes > 0) == (budget > 0)


def test_a_piece_is_made_once_for_all_who_ask_at_once() -> None:
    made: list[int] = []
    together = threading.Barrier(4)

    def make(index: int) -> bytes:
        made.append(index)
        return bytes([index]) * 10

    file = ArtifactFile("file", [Region(0, 95, 10, make)])
    shared = SharedPieces(MemoryCache(1 << 20), "rendering", "file")
    got: list[bytes] = []

    def read() -> None:
        together.wait(120)
        got.append(b"".join(file.chunks(shared=shared)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(10))
    assert len(set(got)) == 1
    assert len(got) == 4


def test_copies_are_not_kept() -> None:
    memory = MemoryCache(1 << 20)
    file = ArtifactFile(
        "file", [Region(0, 95, 10, lambda _: bytes(10), costly=False), Region(95, 105, 10, lambda _: bytes(10))]
    )
    list(file.chunks(shared=SharedPieces(memory, "rendering", "file")))
    assert memory.use()["piece"].entries == 1
    assert not file.is_costly(0, 95)
    assert file.is_costly(94, 96)


def test_what_was_read_or_given_up_is_not_held() -> None:
    memory = MemoryCache(200)  # 100 bytes of it for pieces
    file = ArtifactFile("file", [Region(0, 1000, 10, lambda _: bytes(10))])
    reader = file.chunks(shared=SharedPieces(memory, "first", "file"))
    for _ in range(20):
        next(reader)
    reader.close()  # type: ignore[attr-defined]
    list(file.chunks(shared=SharedPieces(memory, "second", "file")))
    assert memory.use()["piece"].bytes <= 100


@pytest.mark.parametrize("failed", [IntegrityError, UnavailableError])
def test_whose_own_blobs_are_sound_does_not_fail_with_another(failed: type[RegistryError]) -> None:
    """Another reader of the same bytes has older blobs open: damaged since, or closed while a piece was made."""
    memory, begun, both = MemoryCache(1 << 20), threading.Event(), threading.Event()

    def fail(index: int) -> bytes:
        begun.set()
        both.wait(120)
        raise failed(f"piece {index}")

    shared = SharedPieces(memory, "rendering", "file")
    first = ArtifactFile("file", [Region(0, 10, 10, fail)]).chunks(shared=shared)
    second = ArtifactFile("file", [Region(0, 10, 10, lambda _: b"0123456789")]).chunks(2, shared=shared)
    wrong: list[type[RegistryError]] = []

    def read() -> None:
        try:
            next(first)
        except RegistryError as error:
            wrong.append(type(error))

    def watch() -> None:
        while memory.use()["piece"].hits == 0:
            time.sleep(0.001)
        both.set()

    threads = [threading.Thread(target=read), threading.Thread(target=watch)]
    threads[0].start()
    assert begun.wait(120)
    threads[1].start()
    assert b"".join(second) == b"23456789"
    for thread in threads:
        thread.join()
    assert wrong == [failed]
