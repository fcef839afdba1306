"""Exports into folders: what is in them, how they come back, and what is not overwritten."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.errors import ConflictError, NotFoundError, RetractedError, UsageError
from registry.folders.staging import put_in_place
from registry.schemas import ArtifactKind
from registry.services.deployment import DATABASE
from registry.services.local import LocalRegistry
from registry.transfer.export import _fill as fill
from tests.kit.serving import ServedRegistry
from tests.transfer.export_house import BASE, CHILD, CHILD_1, PARENT, House, bytes_in, opened

KINDS: tuple[ArtifactKind, ...] = ("lora", "merged", "published")
KILLED = """
import os, signal, sys
import registry
from registry.transfer import export

export.put_in_place = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with registry.connect(sys.argv[1]) as team:
    team.export(*sys.argv[2:])
"""


@pytest.fixture(scope="module", params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("exports")
    local = opened(folder)
    with closing(local if request.param == "in process" else ServedRegistry(local, folder / "client")) as registry:
        yield House.build(folder, registry)


@pytest.fixture(scope="module")
def copied(house: House) -> Iterator[LocalRegistry]:
    with closing(house.copy("copied")) as other:
        yield other


def front_matter(folder: Path) -> Any:
    found: Any = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


def test_the_card_says_what_hubs_read(house: House, tmp_path: Path) -> None:
    for kind, library, relation in (("lora", "peft", "adapter"), ("merged", "transformers", "finetune")):
        exported = house.registry.export(CHILD_1, tmp_path / kind, kind=kind, base_model="meta/llama")  # type: ignore[arg-type]
        found = front_matter(tmp_path / kind)
        assert exported.card == (tmp_path / kind / "README.md").read_text()
        assert (found["base_model"], found["base_model_relation"]) == ("meta/llama", relation)
        assert (found["library_name"], found["pipeline_tag"]) == (library, "text-generation")
        (index,) = found["model-index"]
        assert [(one["type"], one["value"]) for one in index["results"][0]["metrics"]] == [("acc", 0.91)]
        lineage = house.registry.resolve(CHILD_1).lineage
        assert found["registry"]["lineage"] == [one.digest for one in lineage[1:]]


def test_the_card_is_read_by_the_hubs_own_client(house: House, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    house.registry.export(CHILD_1, tmp_path / "out")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.eval_results is not None
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("acc", 0.91)]


def test_the_licence_is_that_of_the_edited_card(house: House, tmp_path: Path) -> None:
    house.registry.export(f"{PARENT}@1", tmp_path / "out")
    assert front_matter(tmp_path / "out")["license"] == "llama3"
    house.registry.set_card(PARENT, "---\nlicense: apache-2.0\n---\n# it\n")
    house.registry.export(f"{PARENT}@1", tmp_path / "out")
    assert front_matter(tmp_path / "out")["license"] == "apache-2.0"


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_the_artifacts(house: House, tmp_path: Path, kind: ArtifactKind) -> None:
    exported = house.registry.export(CHILD_1, tmp_path / "out", kind=kind)
    assert {one.path: one.size for one in exported.files} == {
        place.relative_to(tmp_path / "out").as_posix(): place.stat().st_size
        for place in (tmp_path / "out").rglob("*")
        if place.is_file()
    }
    with house.registry.artifact(CHILD_1, kind=kind) as artifact:
        for path in artifact.files:
            if path.endswith(".safetensors"):
                assert artifact.file(path).read() == (tmp_path / "out" / path).read_bytes()


def test_an_adapter_comes_back_on_what_it_goes_on(house: House, copied: LocalRegistry, tmp_path: Path) -> None:
    for kind, path, parent in (("published", CHILD, f"{PARENT}@2"), ("lora", f"{BASE}/flat", BASE)):
        house.registry.export(CHILD_1, tmp_path / kind, kind=kind)  # type: ignore[arg-type]
        for registry in (house.registry, copied):
            published = registry.publish(tmp_path / kind, path)
            assert (published.revision.parent, published.revision.parent_known_by) == (parent, "receipt")
            assert "export" in published.parent_reason
            assert published.revision.derived_from is not None
            assert published.revision.derived_from.reference == CHILD_1
            with pytest.raises(ConflictError, match="goes on") as refused:
                registry.publish(tmp_path / kind, f"{CHILD}/under")
            assert refused.value.code == "parent_mismatch"


def test_what_was_changed_proves_nothing(house: House, tmp_path: Path) -> None:
    house.registry.export(CHILD_1, tmp_path / "out", kind="published")
    config = tmp_path / "out" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 3}))
    with pytest.raises(UsageError) as refused:
        house.registry.publish(tmp_path / "out", CHILD)
    assert refused.value.code == "parent_ambiguous"


def test_a_merged_export_is_a_base_of_new_training(house: House, copied: LocalRegistry, tmp_path: Path) -> None:
    house.registry.export(CHILD_1, tmp_path / "out", kind="merged")
    trained = house.trained_on(tmp_path / "out", f"trained-{tmp_path.name}")
    for registry in (house.registry, copied):
        published = registry.publish(trained, f"{CHILD}/more")
        assert (published.revision.parent, published.revision.parent_known_by) == (CHILD_1, "receipt")


def test_what_an_adapter_says_that_it_is_loaded_on(house: House, tmp_path: Path) -> None:
    def named(ref: str, **options: Any) -> object:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        house.registry.export(ref, tmp_path / "out", **options)
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["revision"] is None
        return config["base_model_name_or_path"]

    assert named(CHILD_1) is None  # the base model was added from a folder
    assert named(CHILD_1, base_model="meta/llama") == "meta/llama"
    assert named(CHILD_1, kind="published") is None  # and never the base model: it goes on its parent's
    assert named(CHILD_1, kind="published", base_model="acme/parent") == "acme/parent"


def test_a_base_model_from_the_hub_is_named(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as registry:
        House.build(tmp_path, registry)
        with sqlite3.connect(tmp_path / "registry" / DATABASE) as database:
            database.execute("UPDATE base_models SET source = ?", (f"hf:meta/llama@{'a' * 40}",))
        named = {}
        for kind, ref in (("lora", CHILD_1), ("published", f"{PARENT}@1"), ("published", CHILD_1)):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            registry.export(ref, tmp_path / "out", kind=kind)  # type: ignore[arg-type]
            assert front_matter(tmp_path / "out")["base_model"] == "meta/llama"
            config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
            named[kind, ref] = config["base_model_name_or_path"]
        # On the base model alone the weights of an adapter that was trained on another would be wrong, in silence.
        assert list(named.values()) == ["meta/llama", "meta/llama", None]


def test_again_is_the_same_and_another_revision_replaces_it(house: House, tmp_path: Path) -> None:
    place = tmp_path / "out"
    assert house.registry.export(f"{PARENT}@1", place).created
    before = bytes_in(place)
    assert not house.registry.export(f"{PARENT}@1", place).created
    assert bytes_in(place) == before
    assert house.registry.export(f"{PARENT}@2", place, kind="merged").created
    assert not (place / "adapter_config.json").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_nothing_but_an_unchanged_export_is_replaced(house: House, tmp_path: Path) -> None:
    place = tmp_path / "out"

    def refused(match: str, **options: bool) -> None:
        before = bytes_in(tmp_path)
        with pytest.raises(ConflictError, match=match) as error:
            house.registry.export(PARENT, place, **options)  # type: ignore[arg-type]
        assert error.value.code == "folder_taken"
        assert bytes_in(tmp_path) == before

    place.mkdir()
    (place / "mine.txt").write_text("mine")
    refused("holds files that no export wrote")
    refused("holds files that no export wrote", dry_run=True)
    (place / "mine.txt").unlink()
    house.registry.export(PARENT, place)  # an empty folder is fine
    (place / "mine.txt").write_text("mine")
    refused("holds 'mine.txt' that no export wrote")
    (place / "mine.txt").unlink()
    (place / "README.md").write_text((place / "README.md").read_text().replace("Composed", "Compared"))
    refused("'README.md' that was changed")
    shutil.rmtree(place)
    house.registry.fetch(PARENT, place)
    refused("`registry fetch` wrote")
    shutil.rmtree(place)
    place.write_text("a file")
    refused("is a file")
    place.unlink()
    (place / "runs").mkdir(parents=True)
    refused("holds the folder 'runs'")
    (place / "runs").rmdir()
    house.registry.export(PARENT, place)
    (place / "runs").symlink_to(tmp_path)
    refused("holds 'runs' that no export wrote")


def test_an_export_that_is_changed_meanwhile_stays(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out"
    house.registry.export(f"{PARENT}@1", place)

    def also(folder: Path, files: Any) -> None:
        fill(folder, files)
        (place / "mine.txt").write_text("mine")

    monkeypatch.setattr("registry.transfer.export._fill", also)
    with pytest.raises(ConflictError, match=r"mine\.txt"):
        house.registry.export(f"{PARENT}@2", place)
    assert (place / "mine.txt").read_text() == "mine"


def test_a_fetch_takes_no_export_for_its_own(house: House, tmp_path: Path) -> None:
    house.registry.export(PARENT, tmp_path / "out")
    with pytest.raises(ConflictError):
        house.registry.fetch(PARENT, tmp_path / "out")
    with pytest.raises(UsageError, match="is an export"):
        house.registry.verify(tmp_path / "out")


def test_a_dry_run_says_what_would_be_written(house: House, tmp_path: Path) -> None:
    rehearsed = house.registry.export(CHILD_1, tmp_path / "out", kind="merged", dry_run=True)
    assert not any(tmp_path.iterdir())
    assert (rehearsed.dry_run, rehearsed.created) == (True, False)
    written = house.registry.export(CHILD_1, tmp_path / "out", kind="merged")
    assert rehearsed.card == written.card
    assert [one for one in rehearsed.files if one.size is not None] == [
        one for one in written.files if one.path != "registry-receipt.json"
    ]


def test_what_can_not_be_exported(house: House, tmp_path: Path) -> None:
    for ref, options, match in (
        (BASE, {}, "is a base model"),
        (CHILD_1, {"base_model": "no-repo"}, "ORG/REPO is expected"),
        (CHILD_1, {"public": True}, "is a folder"),
    ):
        with pytest.raises(UsageError, match=match):
            house.registry.export(ref, tmp_path / "out", **options)
    for target, match in (
        ("https://huggingface.co/acme/bird", "hf:ORG/REPO"),
        ("", "hf:ORG/REPO"),
        ("~nobody-of-this-name/out", "a user that does not exist"),
    ):
        with pytest.raises(UsageError, match=match):
            house.registry.export(CHILD_1, target)
    with pytest.raises(NotFoundError):
        house.registry.export(f"{BASE}/nothing", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_retracted_path_stays_here(house: House, tmp_path: Path) -> None:
    retracted = house.registry.publish(house.trained_on(tmp_path, f"bad-{tmp_path.name}"), f"{BASE}/bad").revision
    house.registry.retract(retracted.reference, reason="bad data")
    for kind in KINDS:
        with pytest.raises(RetractedError):
            house.registry.export(f"{BASE}/bad", tmp_path / "out", kind=kind)


def test_stopped_there_is_nothing_or_the_old_one(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for before in (None, f"{PARENT}@1"):
        if before is not None:
            house.registry.export(before, tmp_path / "out")
        kept = bytes_in(tmp_path)
        for name in ("_fill", "put_in_place"):
            with monkeypatch.context() as patch:
                patch.setattr(f"registry.transfer.export.{name}", stop)
                with pytest.raises(KeyboardInterrupt):
                    house.registry.export(f"{PARENT}@2", tmp_path / "out")
            assert bytes_in(tmp_path) == kept


@pytest.mark.parametrize("can", [True, False])
def test_a_folder_is_replaced_in_one_step_where_that_can_be(
    can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
    if not can:
        monkeypatch.setattr("registry.folders.staging.exchange", lambda *_: False)
    rename = Path.rename

    def noted(one: Path, to: Path) -> Path:
        steps.append(one.name)
        return rename(one, to)

    monkeypatch.setattr(Path, "rename", noted)
    put_in_place(tmp_path / "new", tmp_path / "place", replace=True)
    assert steps == ([] if can else ["place", "new"])
    assert [(one.name, (one / "what").read_text()) for one in tmp_path.iterdir()] == [("place", "new")]


@pytest.mark.slow  # a process of its own, which imports torch
def test_killed_there_is_the_old_one(house: House, tmp_path: Path) -> None:
    if not isinstance(house.registry, LocalRegistry):
        pytest.skip("the writing is the same")
    place = tmp_path / "out"
    house.registry.export(f"{PARENT}@1", place)
    kept = bytes_in(place)
    words = [sys.executable, "-c", KILLED, house.registry.url, f"{PARENT}@2", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert bytes_in(place) == kept
    assert len(list(tmp_path.iterdir())) == 2
    assert house.registry.export(f"{PARENT}@2", place).created
    assert [one.name for one in tmp_path.iterdir()] == ["out"]  # what the killed one left is gone
