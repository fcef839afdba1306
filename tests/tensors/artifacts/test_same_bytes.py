"""An artifact's bytes are the same however they are read: range, piece size, threads, process, run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.schemas import ArtifactKind
from registry.tensors.artifacts.artifact import Artifact
from tests.kit import plain_base, write_chain
from tests.kit.shelf import Shelf, artifact_tensors, core_artifact
from tests.root import ROOT

KINDS: list[ArtifactKind] = ["published", "lora", "merged"]
RANGES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def reference(shelf: Shelf) -> str:
    """A path on matrices of many blocks with a short last one, and of odd sizes."""
    shapes = {"large.weight": (1111, 1500), "odd.weight": (37, 3), "long.weight": (9, 4001), "wide.weight": (300, 7000)}
    base = shelf.base("blocks", plain_base, shapes=shapes, dtype="BF16", shards=2)
    return shelf.path("blocks", write_chain(shelf.folder(), base, 3, ["large", "odd", "long", "wide"], r=5))


@pytest.fixture(scope="module")
def deep(shelf: Shelf) -> str:
    """Ranks past which a product on two threads sums in another order than on one."""
    base = shelf.base("deep", plain_base, shapes={"a.weight": (600, 2050)}, dtype="F32")
    return shelf.path("deep", write_chain(shelf.folder(), base, 4, ["a"], r=256, fill="positive"))


def _fetched(shelf: Shelf, reference: str, kind: ArtifactKind) -> dict[str, bytes]:
    out = shelf.folder()
    answer = shelf.registry.fetch(reference, out, kind=kind)
    return {file.path: (out / file.path).read_bytes() for file in answer.files}


def _digest(artifact: Artifact, **options: Any) -> str:
    digest = hashlib.sha256()
    for path, file in artifact.files.items():
        digest.update(path.encode())
        for chunk in file.chunks(**options):
            digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_bytes_are_those_of_fetch(shelf: Shelf, reference: str, kind: ArtifactKind) -> None:
    fetched = _fetched(shelf, reference, kind)
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        assert {path: file.size for path, file in artifact.files.items()} == {
            path: len(data) for path, data in fetched.items()
        }
        for path, file in artifact.files.items():
            assert file.read() == fetched[path]


@pytest.fixture(scope="module")
def read_whole(shelf: Shelf, reference: str) -> dict[str, dict[str, bytes]]:
    return {kind: _fetched(shelf, reference, kind) for kind in KINDS}


@RANGES
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_range(
    shelf: Shelf, reference: str, read_whole: dict[str, dict[str, bytes]], data: st.DataObject, kind: ArtifactKind
) -> None:
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        path = data.draw(st.sampled_from(sorted(artifact.files)))
        file = artifact.files[path]
        start = data.draw(st.integers(0, file.size))
        stop = data.draw(st.one_of(st.integers(start, min(start + 64, file.size)), st.integers(start, file.size)))
        assert file.read(start, stop) == read_whole[kind][path][start:stop]


@pytest.mark.parametrize("step", [1021, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_pieces_of_any_size(
    shelf: Shelf, reference: str, read_whole: dict[str, dict[str, bytes]], kind: ArtifactKind, step: int
) -> None:
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        # The smallest files are read whole; of larger ones, a window of 40 pieces over the seam of two blocks.
        for path, file in artifact.files.items():
            first = max(0, file.size // 2 - 20 * step)
            last = min(file.size, first + 40 * step)
            pieces = [file.read(at, min(at + step, last)) for at in range(first, last, step)]
            assert b"".join(pieces) == read_whole[kind][path][first:last]


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_outside_the_file_are_refused(shelf: Shelf, reference: str, kind: ArtifactKind) -> None:
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        file = next(iter(artifact.files.values()))
        for start, stop in ((-1, 4), (0, file.size + 1), (5, 4), (file.size + 1, file.size + 1)):
            with pytest.raises(UsageError):
                file.read(start, stop)
        assert file.read(file.size, file.size) == b""


@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_any_number_of_threads(shelf: Shelf, deep: str, kind: ArtifactKind) -> None:
    with core_artifact(shelf.registry, deep, kind=kind) as artifact:
        digests = {_digest(artifact, lanes=lanes) for lanes in (1, 2, 3, 4)}
    assert len(digests) == 1


@pytest.mark.slow_on("lora")
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_the_callers_threads_neither_matter_nor_change(shelf: Shelf, deep: str, kind: ArtifactKind) -> None:
    before, digests = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with core_artifact(shelf.registry, deep, kind=kind) as artifact:
                digests.add(_digest(artifact))
                list(artifact.tensors())
            shelf.registry.fetch(deep, shelf.folder(), kind=kind)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


SCRIPT = """
import hashlib, sys
from pathlib import Path
import torch
from registry.services.local import LocalRegistry
digest = hashlib.sha256()
registry = LocalRegistry.open(Path(sys.argv[1]), create=False)
for kind in ("lora", "merged"):
    with registry.artifact(sys.argv[2], kind=kind) as artifact:
        print(artifact.rendering)
        for path, file in artifact.files.items():
            digest.update(path.encode())
            for chunk in file.chunks():
                digest.update(chunk)
print(digest.hexdigest())
"""


@pytest.mark.long
def test_any_process(shelf: Shelf, deep: str) -> None:
    """Other processes, with other thread settings, give the same renderings and the same bytes."""
    answers = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT, str(shelf.root / "registry"), deep]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
        answers.add(done.stdout)
    assert len(answers) == 1


def test_the_same_registry_twice_names_the_same_rendering(shelf: Shelf, deep: str, reference: str) -> None:
    renderings = []
    for one in (deep, reference):
        for kind in KINDS:
            for _ in range(2):
                with core_artifact(shelf.registry, one, kind=kind) as artifact:
                    renderings.append(artifact.rendering)
    assert len(set(renderings)) == 6
    assert renderings[::2] == renderings[1::2]


@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_tensors_come_one_by_one_and_are_those_of_the_files(shelf: Shelf, reference: str, kind: ArtifactKind) -> None:
    with core_artifact(shelf.registry, reference, kind=kind) as artifact:
        tensors = list(artifact.tensors())
        files = artifact_tensors(artifact)
    assert [name for name, _ in tensors] == list(files)
    for name, tensor in tensors:
        assert tuple(tensor.shape) == files[name].shape
        assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == files[name].data
