"""What counts as proof where the folder that an adapter was trained on is compared: its times, its bits, all of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.errors import ConflictError, UsageError
from registry.operations.registry import Registry
from registry.schemas import Fitting, FolderCompared
from registry.transfer.trained_on import TrainedRecord, weights_of_folder, write_record
from tests.kit.floats import Array
from tests.kit.serving import ServedRegistry
from tests.services.publishing.parent_house import WEIGHTS, House, opened

DAY = 86_400.0
PAIR = ("adapter_config.json", "adapter_model.safetensors")
LARGE = {"a.weight": (96, 64), "b.weight": (64, 96), "c.weight": (20_000, 16), "norm.weight": (16,)}


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    local = opened(tmp_path)
    with closing(local if request.param == "in process" else ServedRegistry(local, tmp_path / "client")) as found:
        yield found


@pytest.fixture
def house(registry: Registry, tmp_path: Path, real_times: None) -> House:
    del real_times
    house = House(tmp_path, registry, shapes=LARGE)
    registry.publish(house.support[0], "net/only")
    return house


def aged(folder: Path, days: float) -> Path:
    """The folder, written so many days ago."""
    then = time.time() - days * DAY
    for file in folder.iterdir():
        os.utime(file, (then, then))
    return folder


def trained(house: House, name: str, folder: Path, days: float) -> Path:
    """An adapter that was trained on a folder, and saved so many days ago."""
    return aged(house.adapter(name, folder), days)


def said(house: House, child: Path, path: str, **options: object) -> tuple[str, str, str]:
    """What is pinned, by which word, and everything that is told about it."""
    answer = house.registry.publish(child, path, **options)  # type: ignore[arg-type]
    shown = house.registry.show(answer.revision.reference).revision
    assert shown is not None
    assert shown.parent_known_by == answer.revision.parent_known_by
    return shown.parent, shown.parent_known_by, " ".join([answer.parent_reason, *shown.notices])


def test_a_folder_that_is_older_proves_its_parent(house: House) -> None:
    folder = aged(house.merged("merged", house.support[1:]), 30)
    answer = said(house, trained(house, "child", folder, 0), "net/support/child")
    assert answer[:2] == ("net/support@2", "compared")


def test_a_folder_that_was_overwritten_since_shows_nothing(house: House) -> None:
    """It was support@1 when the adapter was trained, and is support@2 now."""
    child = trained(house, "child", house.merged("current", house.support[:1]), 30)
    house.merged("current", house.support[1:])
    problem = house.refused(child, "net/support/child")
    assert problem.code == "parent_ambiguous"
    assert "is newer than the adapter" in str(problem)
    problem = house.refused(child, "net/support/child", find_parent=True)
    assert problem.code == "parent_ambiguous"
    parent, word, told = said(house, child, "net/support/child", parent="net/support@1")
    assert (parent, word) == ("net/support@1", "given")
    assert "is newer than the adapter" in told


def test_what_else_is_assumed_says_that_the_folder_is_newer(house: House) -> None:
    child = trained(house, "child", house.folder / "current", 30)
    house.merged("current", house.support[:1])
    preview = house.registry.preview(child, "net/only/child")
    assert preview.parent_known_by == "assumed"
    assert any("is newer than the adapter" in notice for notice in preview.notices)
    parent, word, told = said(house, child, "net/only/child")
    assert (parent, word) == ("net/only@1", "assumed")
    assert "is newer than the adapter" in told


def test_a_folder_that_was_fetched_again_since_shows_nothing(house: House) -> None:
    current = house.folder / "current"
    house.registry.fetch("net/support@1", current, kind="merged")
    aged(current, 60)
    child = trained(house, "child", current, 30)
    stamps = {file.name: file.stat().st_mtime_ns for file in current.iterdir()}
    house.registry.fetch("net/support@1", current, kind="merged")  # which is there: nothing is written
    assert {file.name: file.stat().st_mtime_ns for file in current.iterdir()} == stamps
    assert said(house, child, "net/support/one")[:2] == ("net/support@1", "receipt")
    house.registry.fetch("net/support@2", current, kind="merged", force=True)
    problem = house.refused(child, "net/support/two")
    assert problem.code == "parent_ambiguous"
    assert "The receipt in" in str(problem)
    assert "which may have been fetched there since" in str(problem)
    # a person may say so
    parent, word, _ = said(house, child, "net/support/two", receipt=current / "registry-receipt.json")
    assert (parent, word) == ("net/support@2", "given")


def test_files_of_one_moment_are_stated(house: House) -> None:
    """As all files of a copied or cloned heap: the word is compared, times unknown."""
    folder = house.merged("merged", house.support[1:])
    for find in (False, True):
        parent, word, told = said(
            house, house.adapter(f"child-{find}", folder), f"net/support/c{find:d}", find_parent=find
        )
        assert (parent, word) == ("net/support@2", "compared_untimed")
        assert "unknown" in told


def test_a_fetched_folder_shows_that_its_times_are_its_own(house: House) -> None:
    """Its receipt has the time of its weights and a nanosecond, which a copy without times does not keep."""
    fetched = house.folder / "fetched"
    house.registry.fetch("net/support@1", fetched, kind="merged")
    last = (fetched / WEIGHTS).stat().st_mtime_ns
    assert (fetched / "registry-receipt.json").stat().st_mtime_ns == last + 1
    time.sleep(0.02)  # more than a tick of the file system's clock
    assert said(house, house.adapter("at-once", fetched), "net/support/one")[:2] == ("net/support@1", "receipt")
    kept = shutil.copytree(fetched, house.folder / "kept")
    assert said(house, house.adapter("kept-times", kept), "net/support/two")[:2] == ("net/support@1", "receipt")
    copied = shutil.copytree(fetched, house.folder / "copied", copy_function=shutil.copyfile)
    answer = said(house, house.adapter("copied-child", copied), "net/support/three")
    assert answer[:2] == ("net/support@1", "receipt_untimed")
    # one that was there before it was fetched
    child = house.adapter("before", house.folder / "later")
    time.sleep(0.02)
    house.registry.fetch("net/support@1", house.folder / "later", kind="merged")
    assert house.refused(child, "net/support/four").code == "parent_ambiguous"


def test_what_was_recorded_when_the_training_began_settles_it(house: House) -> None:
    folder = house.merged("current", house.support[:1])
    digest = weights_of_folder(folder)
    assert digest is not None
    child = house.adapter("child", folder)
    write_record(child, TrainedRecord(name=str(folder), digest=digest))
    aged(child, 50)
    for days in (60, 50, 10):  # whatever the times say
        aged(folder, days)
        assert said(house, child, f"net/support/d{days}")[:2] == ("net/support@1", "compared")
    house.merged("current", house.support[1:])
    aged(folder, 60)
    problem = house.refused(child, "net/support/other")
    assert (problem.code, "not what it was when the training began" in str(problem)) == ("parent_ambiguous", True)
    write_record(child, TrainedRecord(name="another", digest=digest))  # of another folder: it says nothing of this one
    assert said(house, child, "net/support/other")[:2] == ("net/support@2", "compared")


def _near(base: Mapping[str, Array], full: Mapping[str, Array]) -> Iterator[tuple[str, dict[str, Array]]]:
    random = np.random.default_rng(7)
    delta = {name: full[name] - base[name] for name in base}
    yield "steps-before", {name: base[name] + 0.99 * delta[name] for name in base}
    noise = {name: 1 + 0.003 * random.standard_normal(delta[name].shape) for name in base}
    yield "noise", {name: base[name] + delta[name] * noise[name] for name in base}


def test_what_only_fits_within_rounding_is_assumed(house: House) -> None:
    base = house.values(house.base.folder)
    full = {name: one.values for name, one in house.base.reference(house.support[:1]).items()}
    for name, values in _near(base, full):
        folder = aged(house.save(name, values), 30)
        child = trained(house, f"on-{name}", folder, 0)
        parent, word, told = said(house, child, f"net/only/{name}")
        assert (parent, word) == ("net/only@1", "assumed")
        assert "within rounding only" in told
        problem = house.refused(child, f"net/only/{name}-found", find_parent=True)
        assert (problem.code, "within rounding only" in str(problem)) == ("parent_ambiguous", True)
    same = aged(house.save("same", full), 30)
    assert said(house, trained(house, "on-same", same, 0), "net/only/same")[:2] == ("net/only@1", "compared")


def test_what_only_fits_is_searched_for_among_all_revisions(house: House) -> None:
    """Another adapter, nearly the same, is equal bit for bit: the path does not admit that as the parent."""
    other = house.near("other", house.support[0], 0.002)
    house.registry.publish(other, "net/other")
    folder = aged(house.merged("merged", [other]), 30)
    problem = house.refused(trained(house, "child", folder, 0), "net/only/child")
    assert problem.code == "parent_mismatch"
    assert "net/other@1" in str(problem)
    assert said(house, trained(house, "right", folder, 0), "net/other/child")[:2] == ("net/other@1", "compared")


def test_a_proof_reads_everything_and_samples_only_state(house: House) -> None:
    """A row of a tensor that nobody changes, where no sample is."""
    folder = house.merged("merged", house.support[1:])
    values = house.values(folder)
    values["c.weight"][3] = -values["c.weight"][3]
    aged(house.save("merged", values), 30)
    child = trained(house, "child", folder, 0)
    problem = house.refused(child, "net/support/child")
    assert (problem.code, "c.weight" in str(problem)) == ("parent_unproven", True)
    parent, word, told = said(house, child, "net/support/child", sampled=True)
    assert (parent, word) == ("net/support@2", "sampled")
    assert "samples" in told
    with pytest.raises(UsageError, match="--sampled"):
        house.registry.publish(child, "net/support/child", sampled=True, find_parent=True)


def test_a_last_bit_of_a_tensor_that_nobody_changes_is_seen(house: House) -> None:
    folder = house.merged("merged", house.support[1:])
    values = house.values(folder)
    values["c.weight"][19_990, 3] *= 1 + 2.0**-7
    aged(house.save("merged", values), 30)
    problem = house.refused(trained(house, "child", folder, 0), "net/support/child")
    assert (problem.code, "c.weight" in str(problem)) == ("parent_unproven", True)


def test_the_word_of_an_older_client_is_stated_at_most() -> None:
    """Its documents have none of the facts that a proof needs."""
    fits = (Fitting(reference="net/support@1", digest="sha256:0"),)
    old = FolderCompared(words="merged", fitting=fits, searched=4, proof="equal in 4 of 4 tensors, bit for bit")
    assert (old.word, old.model_copy(update={"newer": True}).word) == ("sampled", "assumed")
    facts = {"rule": 1, "whole": True, "equal": 1.0, "times": "older"}
    assert FolderCompared.model_validate({**old.model_dump(), **facts}).word == "compared"
    for missing, word in (
        ("rule", "sampled"),
        ("whole", "sampled"),
        ("equal", "assumed"),
        ("times", "compared_untimed"),
    ):
        some = {name: value for name, value in facts.items() if name != missing}
        assert FolderCompared.model_validate({**old.model_dump(), **some}).word == word


def test_another_merge_in_a_newer_folder_is_still_refused(house: House) -> None:
    """It shows no parent, and whoever says none has to say one."""
    child = trained(house, "child", house.folder / "merged", 30)
    house.merged("merged", [house.adapter("unknown", seed=5)])
    with pytest.raises(ConflictError, match="newer than the adapter") as refused:
        house.registry.publish(child, "net/only/child")
    assert refused.value.code == "parent_unproven"


def test_a_folder_with_another_adapter_in_it_shows_nothing(house: House) -> None:
    """transformers loads that adapter on top of the weights, and trains on the sum."""
    folder = house.folder / "current"
    house.registry.fetch("net/support@1", folder, kind="merged")
    for name in PAIR:
        shutil.copyfile(house.shop / name, folder / name)
    aged(folder, 30)
    for number, options in enumerate([{}, {"find_parent": True}]):
        problem = house.refused(trained(house, f"child-{number}", folder, 0), f"net/support/c{number}", **options)
        assert (problem.code, "holds another adapter" in str(problem)) == ("parent_ambiguous", True)
    parent, word, told = said(house, trained(house, "alone", folder, 0), "net/only/child", parent="net/only@1")
    assert (parent, word) == ("net/only@1", "given")
    assert "which loaders put on top" in told
    # what the training itself saved there: the adapter, one that is newer, or all that lies below
    child = trained(house, "child", folder, 0)
    for name in PAIR:
        shutil.copy2(child / name, folder / name)
    assert said(house, child, "net/support/same")[:2] == ("net/support@1", "receipt")
    assert said(house, folder, "net/support/inside")[:2] == ("net/support@1", "receipt")
