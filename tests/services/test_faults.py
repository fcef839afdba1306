"""Faults: killed processes, many publishers, damaged blobs, disks that are full or can't be written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import IntegrityError, RegistryError, UnavailableError
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, read_model, write_adapter
from tests.kit.fine_tunes import fine_tuned
from tests.root import ROOT

WORKER = Path(__file__).with_name("fault_worker.py")
SHAPES = {"a.weight": (24, 16), "b.weight": (600, 512)}


@pytest.fixture
def base(tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", SHAPES)
    registry = LocalRegistry.open(tmp_path / "registry")
    registry.add_base("net", made.folder)
    registry.close()
    return made


def _opened(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")


def _python(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def _finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out


@pytest.mark.slow
def test_a_publish_killed_at_any_step_loses_nothing(tmp_path: Path, base: Base) -> None:
    adapters = [str(write_adapter(tmp_path / f"adapter{seed}", base, ["a"], r=2, seed=seed)) for seed in range(40)]
    steps = json.loads(_finished(_python(str(WORKER), str(tmp_path), "publish", *adapters)))
    assert steps > 6  # it was killed at that many different moments


@pytest.mark.long
def test_a_full_model_killed_at_any_step_of_its_publish_loses_nothing(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "room"))  # what is killed leaves its own folder there, till the next
    models = [str(fine_tuned(tmp_path / f"model{seed}", base, seed=seed).folder) for seed in range(40)]
    steps = json.loads(_finished(_python(str(WORKER), str(tmp_path), "full", *models)))
    assert steps > 9  # three of them before it is published
    assert not list((tmp_path / "room").glob("*registry-full*"))
    registry = _opened(tmp_path)
    registry.gc()
    assert registry.fsck(deep=True).damage == ()
    registry.fetch(f"net/step{steps}", tmp_path / "out", kind="merged")
    assert read_model(tmp_path / "out") == read_model(Path(models[steps % len(models)]))
    registry.close()


@pytest.mark.long
def test_a_combination_killed_at_any_step_is_there_whole_or_not_at_all(tmp_path: Path, base: Base) -> None:
    registry = _opened(tmp_path)
    folders = [write_adapter(tmp_path / str(seed), base, ["a"], r=2, seed=seed) for seed in (1, 2)]
    refs = [registry.publish(folder, f"net/s{at}").revision.reference for at, folder in enumerate(folders)]
    registry.close()
    steps = json.loads(_finished(_python(str(WORKER), str(tmp_path), "combine", *refs)))
    assert steps > 6


@pytest.mark.long
@pytest.mark.slow
def test_a_fetch_killed_at_any_step_leaves_nothing_that_looks_complete(tmp_path: Path, base: Base) -> None:
    registry = _opened(tmp_path)
    registry.publish(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one")
    registry.close()
    steps = json.loads(_finished(_python(str(WORKER), str(tmp_path), "fetch", "net/one")))
    assert steps > 5


@pytest.mark.long  # tests/catalogue has sixteen of each backend
def test_eight_publishers_number_without_gap_or_duplicate(tmp_path: Path, base: Base) -> None:
    program = (
        "import sys; from registry.services.local import LocalRegistry\n"
        "registry = LocalRegistry.open(sys.argv[1])\n"
        "for folder in sys.argv[3:]:\n"
        "    registry.publish(folder, 'net/shared'); registry.publish(folder, 'net/own' + sys.argv[2])\n"
    )
    processes = []
    for number in range(8):
        folders = [
            str(write_adapter(tmp_path / f"{number}-{seed}", base, ["a"], r=2, seed=100 * number + seed))
            for seed in range(3)
        ]
        processes.append(_python("-c", program, str(tmp_path / "registry"), str(number), *folders))
    for process in processes:
        _finished(process)
    registry = _opened(tmp_path)
    assert [revision.number for revision in registry.log("net/shared").revisions] == list(range(24, 0, -1))
    for number in range(8):
        assert [revision.number for revision in registry.log(f"net/own{number}").revisions] == [3, 2, 1]
    registry.close()


@pytest.mark.parametrize("kind", ["merged", "lora", "published"])
def test_a_flipped_byte_never_reaches_an_output(tmp_path: Path, base: Base, kind: str) -> None:
    registry = _opened(tmp_path)
    registry.publish(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one")
    damaged = "model.safetensors" if kind == "merged" else "adapter_model.safetensors"
    files = registry.show("net" if kind == "merged" else "net/one").files
    digest = next(file.digest for file in files if file.path == damaged).removeprefix("sha256:")
    blob = next((tmp_path / "registry").rglob(f"blobs/**/{digest}-*"))
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(IntegrityError) as found:
        registry.fetch("net/one", tmp_path / "out", kind=kind)  # type: ignore[arg-type]
    assert found.value.code == "corrupt"
    assert not (tmp_path / "out").exists()
    blob.write_bytes(data[:-5])
    with pytest.raises(IntegrityError):
        registry.fetch("net/one", tmp_path / "out", kind=kind)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]
    registry.close()


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path: Path, base: Base) -> None:
    """A limit on the size of files stands for a full disk: it refuses the same writes, and needs no rights."""
    registry = _opened(tmp_path)
    registry.publish(write_adapter(tmp_path / "one", base, ["a", "b"], r=2), "net/one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(RegistryError) as refused:
            registry.fetch("net/one", tmp_path / "out", kind="merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(refused.value, UnavailableError)
    assert "\n" not in str(refused.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]
    assert registry.fetch("net/one", tmp_path / "out", kind="merged").fresh
    registry.close()
