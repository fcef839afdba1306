"""Following into a folder: each name leads to the whole folder of one revision, at every moment and after any fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from registry.errors import ConflictError, RegistryError, UnavailableError, UsageError
from registry.folders.staging import hold
from registry.follow import revisions
from registry.follow.asked import check_names, sink_of
from registry.follow.folder import FolderSink
from registry.follow.revisions import REVISIONS
from registry.follow.sinks import Form, deep, flat
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.local import LocalRegistry
from tests.follow.conftest import Following
from tests.root import ROOT

ALL = {"net--other@prod": "net/other@1", "net--top--one@prod": "net/top/one@1", "net--top@prod": "net/top@1"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(room: Path) -> dict[str, tuple[int, int, str]]:
    """All that is below a folder: inode, time of change, and where links lead."""
    return {
        str(place.relative_to(room)): (
            place.lstat().st_ino,
            place.lstat().st_mtime_ns,
            str(place.readlink()) if place.is_symlink() else "",
        )
        for place in room.rglob("*")
    }


def test_every_name_leads_to_the_folder_that_fetch_writes(following: Following, tmp_path: Path) -> None:
    assert following.round() == [
        f"{does} {name}@prod" for name in ("net/other", "net/top", "net/top/one") for does in ("brought", "switched")
    ]
    assert following.leads() == ALL
    for name, reference in ALL.items():
        fetched = following.registry.fetch(reference, tmp_path / name)
        assert same(weights(following.room / name), weights(Path(fetched.folder)))
    assert following.round() == []
    assert files(following.room) == files(following.room)


def test_a_moved_tag_switches_its_name_and_what_was_open_stays(following: Following) -> None:
    following.round()
    link = following.room / "net--top@prod"
    old, opened = link.resolve(), weights(link)
    following.registry.tag("net/top@2", "prod")
    assert following.round() == ["brought net/top@prod", "switched net/top@prod"]
    assert following.leads() == ALL | {"net--top@prod": "net/top@2"}
    assert same(weights(old), opened)
    assert not same(weights(link), opened)
    following.registry.tag("net/top@1", "prod")
    assert following.round() == ["switched net/top@prod"]  # back to what is still there
    assert link.resolve() == old


def test_old_folders_go_when_nothing_led_to_them_for_a_while(following: Following, tmp_path: Path) -> None:
    following.round()
    old = (following.room / "net--top@prod").resolve()
    following.registry.tag("net/top@2", "prod")
    following.round()
    following.clock += 599
    assert following.round() == []
    held = hold(old)
    assert held is not None
    following.clock += 2
    assert following.round() == []
    assert old.is_dir()  # another process holds it, as vLLM's plugin does
    held.release()
    again = Following(following.registry, following.room, clock=following.clock)  # started anew, it knows the time
    assert again.round() == ["removed net/top@1"]
    assert not old.exists()
    assert again.leads() == ALL | {"net--top@prod": "net/top@2"}
    assert not [place.name for place in (following.room / REVISIONS).glob(".*unused")]


def test_what_was_untagged_deleted_or_retracted_loses_its_name(following: Following) -> None:
    following.round()
    following.registry.untag("net/other", "prod")
    following.registry.retract("net/top/one@1", reason="leaks")
    told = following.round()
    assert told == ["dropped net/top/one@prod", "dropped net/other@prod"]
    assert following.leads() == {"net--top@prod": "net/top@1"}
    assert following.round() == []  # said once
    assert [(one.name, one.serves, one.wants, one.code) for one in following.follower.reports()] == [
        ("net/top@prod", 1, 1, None),
        ("net/top/one@prod", None, None, None),
    ]
    following.registry.retract("net/top/one@1", undo=True)
    following.registry.tag("net/other@2", "prod")
    following.round()
    assert following.leads() == ALL | {"net--other@prod": "net/other@2"}
    following.registry.delete_tree("net/other", with_tags=True)
    assert following.round() == ["dropped net/other@prod"]


def test_a_retraction_above_takes_what_stands_on_it(following: Following) -> None:
    following.round()
    following.registry.retract("net/top@1", reason="leaks")
    assert following.round() == ["dropped net/top@prod", "dropped net/top/one@prod"]
    assert following.leads() == {"net--other@prod": "net/other@1"}


class Broken:
    """A registry, some of whose calls fail."""

    def __init__(self, registry: LocalRegistry, **failing: RegistryError) -> None:
        self._registry, self._failing = registry, failing

    def __getattr__(self, name: str) -> Any:
        if name in self._failing:

            def fail(*_: object, **__: object) -> None:
                raise self._failing[name]

            return fail
        return getattr(self._registry, name)


def test_nothing_is_taken_away_while_the_registry_does_not_say_so(
    following: Following, registry: LocalRegistry, tmp_path: Path
) -> None:
    """Away, another one, a token of another scope, a pattern with a typo: none says that a name is gone."""
    following.round()
    before = files(following.room)

    away = Following(Broken(registry, where=UnavailableError("It is away.")), following.room)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="away"):
        away.round()

    with LocalRegistry.open(tmp_path / "another") as another:
        elsewhere = Following(another, following.room, ("net/*@prod", "net/top@prod"))
        assert elsewhere.round() == ["failed net/*@prod", "failed net/top@prod"]
        assert {problem.code for problem in elsewhere.problems} == {"unavailable"}
        assert "another registry or another token" in str(elsewhere.problems[1])

    narrow = registry.with_principal(Principal("eve", Rights("reader", (TreePath.parse("net/top/one"),))))
    scoped = Following(narrow, following.room)
    assert scoped.round() == ["failed net/other@prod", "failed net/top@prod"]
    assert {problem.code for problem in scoped.problems} == {"not_allowed"}
    assert {one.name: (one.serves, one.code) for one in scoped.follower.reports()} == {
        "net/other@prod": (1, "not_allowed"),
        "net/top@prod": (1, "not_allowed"),
        "net/top/one@prod": (1, None),
    }

    typo = Following(registry, following.room, ("net/*@pord",))
    assert typo.round() == ["failed net/*@pord"]
    assert files(following.room) == before


def test_a_revision_that_cannot_be_brought_leaves_the_old_one_and_is_tried_again(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    following = Following(registry, tmp_path / "served", ("net/top@prod",), {"form": Form("vllm", max_lora_rank=8)})
    following.round()
    following.follower.form = Form("vllm", max_lora_rank=1)  # as of an engine that was started anew with less
    registry.tag("net/top@2", "prod")
    assert following.round() == ["failed net/top@prod"]
    assert following.problems[0].code == "engine_limits"
    assert following.leads() == {"net--top@prod": "net/top@1"}
    assert following.round() == []  # not before a second
    assert [problem.code for problem in following.problems] == ["engine_limits"]
    assert [(one.serves, one.wants, one.code) for one in following.follower.reports()] == [(1, 2, "engine_limits")]
    following.clock += 1
    assert following.round() == ["failed net/top@prod"]
    following.clock += 1
    assert following.round() == []  # two seconds now
    following.clock -= 1e6  # a clock that was set back holds nothing up
    assert following.round() == ["failed net/top@prod"]
    registry.retract("net/top@1", reason="leaks")
    assert following.round() == ["dropped net/top@prod"]  # it may not be served, whatever becomes of the new one
    assert following.leads() == {}
    following.follower.form = Form("vllm", max_lora_rank=8)
    following.clock += 300
    assert following.round() == ["brought net/top@prod", "switched net/top@prod"]


def test_a_folder_that_was_changed_stays_for_its_readers_and_a_right_one_comes_beside_it(following: Following) -> None:
    following.round()
    link = following.room / "net--top@prod"
    damaged = link.resolve()
    right = weights(link)
    (damaged / "adapter_config.json").write_text("{}")
    again = Following(following.registry, following.room)
    assert again.round() == ["brought net/top@prod", "switched net/top@prod"]
    assert link.resolve() != damaged
    assert (damaged / "adapter_config.json").read_text() == "{}"
    assert same(weights(link), right)
    assert Following(following.registry, following.room).round() == []


def test_a_run_that_brings_nothing_leaves_no_folder_behind(registry: LocalRegistry, tmp_path: Path) -> None:
    """Nor takes one away that was there before it."""
    (tmp_path / "mine").mkdir()
    for place, stays in (("new", False), ("mine", True)):
        following = Following(registry, tmp_path / place, ("net/nobody@prod",))
        assert following.round() == ["failed net/nobody@prod"]
        assert (tmp_path / place).exists() == stays
        assert not (tmp_path / place / REVISIONS).exists()


def test_what_is_not_its_own_is_never_touched(following: Following, tmp_path: Path) -> None:
    following.room.mkdir()
    mine, elsewhere = following.room / "net--top@prod", following.room / "net--other@prod"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    elsewhere.symlink_to(tmp_path)
    (following.room / "README").write_text("mine, too")
    assert following.round() == [
        *("brought net/other@prod", "failed net/other@prod", "brought net/top@prod", "failed net/top@prod"),
        *("brought net/top/one@prod", "switched net/top/one@prod"),
    ]
    assert {problem.code for problem in following.problems} == {"folder_taken"}
    assert (mine / "notes.txt").read_text() == "mine"
    assert elsewhere.resolve() == tmp_path
    following.registry.delete_tree("net/other", with_tags=True)
    following.round()
    assert elsewhere.is_symlink()
    assert (following.room / "README").exists()


def test_two_followers_do_not_share_a_folder(following: Following) -> None:
    with (
        following.sink.opened(),
        pytest.raises(ConflictError, match="Another `registry follow`"),
        FolderSink(str(following.room)).opened(),
    ):
        pass
    following.round()


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(following: Following, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="file"):
        Following(following.registry, tmp_path / "file" / "served").round()


def test_a_full_disk_leaves_everything_as_it_was(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    following.round()
    before = {name: (following.room / name).resolve() for name in ALL}
    following.registry.tag("net/top@2", "prod")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", full)
        assert following.round() == ["brought net/top@prod", "failed net/top@prod"]
    assert {name: (following.room / name).resolve() for name in ALL} == before
    following.clock += 1
    assert following.round() == ["switched net/top@prod"]


def test_a_dry_run_tells_and_changes_nothing(registry: LocalRegistry, tmp_path: Path) -> None:
    dry = Following(registry, tmp_path / "served", options={"dry_run": True})
    names = ("net/other@prod", "net/top@prod", "net/top/one@prod")
    dry.follower.round()
    assert [f"{step.does} {step.name}" for step in dry.steps] == [
        f"{does} {name}" for name in names for does in ("brought", "switched")
    ]
    assert not (tmp_path / "served").exists()
    Following(registry, tmp_path / "served").round()
    before = files(tmp_path / "served")
    registry.tag("net/top@2", "prod")
    registry.retract("net/other@1", reason="leaks")
    dry.steps.clear()
    dry.follower.round()
    assert [f"{step.does} {step.name}" for step in dry.steps] == [
        "dropped net/other@prod",
        "brought net/top@prod",
        "switched net/top@prod",
    ]
    assert files(tmp_path / "served") == before


def test_names_that_stand_for_no_revision_of_their_own_are_refused() -> None:
    assert check_names(["llama/*@prod", "llama/support@3", "qwen/a@prod"]) == ("llama", "qwen")
    for wrong in ("llama", "llama/support", "llama/*", "*@prod", "llama/Support@prod", "llama/a@prod:0.5"):
        with pytest.raises(UsageError):
            check_names([wrong])
    for many in ([], ["llama/a@prod"] * 1000):
        with pytest.raises(UsageError, match="names on"):
            check_names(many)
    for place in ("folder", "folder=", "disk=/srv", "/srv"):
        with pytest.raises(UsageError, match="folder=DIR"):
            sink_of(place)


_NAME = st.from_regex(r"[a-z0-9]([a-z0-9]|[-_][a-z0-9]){0,8}", fullmatch=True)
_PATHS = st.lists(_NAME, min_size=2, max_size=4).map("/".join)


@settings(max_examples=40)
@given(paths=st.sets(_PATHS, min_size=2, max_size=6), tag=_NAME)
def test_no_two_names_share_a_link(paths: set[str], tag: str) -> None:
    names = [*(f"{path}@{tag}" for path in paths), *(f"{path}@3" for path in paths)]
    places = {flat(name) for name in names}
    assert len(places) == len(set(names))
    assert {deep(one) for one in places} == set(names)
    for path in paths:
        key = revisions._key(f"{path}@3", "sha256:1", Form())
        assert revisions.reference_of(key) == f"{path}@3"


WORKER = Path(__file__).with_name("kill_worker.py")


@pytest.mark.slow
def test_a_follower_killed_at_any_step_leaves_every_name_at_a_whole_revision(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] > 10
