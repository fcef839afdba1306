"""The commands about the life of a tree: what they print, refuse and end with."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.schemas import (
    BaseMeasured,
    Checked,
    Collected,
    CollectedBlob,
    Copied,
    CopiedRevision,
    Damage,
    Deleted,
    DeletedTree,
    ProtectedTag,
    Retabled,
    Retracted,
    Retraction,
    Schema,
    TokenScope,
)
from registry.schemas.usage import RevisionUse
from registry.services.local import LocalRegistry
from tests.cli import canned as answers
from tests.cli.canned import CannedRegistry, digest_of
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter
from tests.kit.serving import served
from tests.root import ROOT

KEY = "blobs/sha256/aa/" + "a" * 64 + "-01234567"
USE = answers.SHOWN.use
FRENCH_USE = RevisionUse(
    reference="llama-1b/support/french@1", last_used_at=answers.WHEN, uses=3, by_interface={"hub": 3}, tokens=1
)
DELETED = Deleted(reference="llama-1b/support@3", digest=digest_of("3"), tags=("llama-1b/support@prod",), use=USE)
GIVEN_BACK = DELETED.model_copy(
    update={"undone": True, "tags": (), "tags_elsewhere": ("llama-1b/support@prod",), "use": None}
)
DELETED_TREE = DeletedTree(
    path="llama-1b/support",
    revisions=("llama-1b/support@3", "llama-1b/support/french@1"),
    tags=("llama-1b/support@prod",),
    until=answers.WHEN,
    use=USE,
    used=(FRENCH_USE,),
)
DELETED_BASE = DELETED_TREE.model_copy(
    update={
        "path": "llama-1b",
        "scopes": (TokenScope(token="tok_abc", scope="llama-1b/support"),),
        "protected_tags": ("release-*",),
    }
)
RETRACTED = Retracted(
    reference="llama-1b/support@3",
    reason="trained on test data",
    descendants=("llama-1b/support/french@1", "llama-1b/support/french@2"),
    tags=("llama-1b/support@prod",),
    use=USE,
    used=(FRENCH_USE,),
)
GONE = answers.SUPPORT.model_copy(
    update={
        "retracted": Retraction(
            reference="llama-1b/support@3", reason="trained on test data", actor="anna", at=answers.SUPPORT.created_at
        )
    }
)
UNDONE = RETRACTED.model_copy(update={"reason": None, "use": None, "used": ()})
PROTECTED = (ProtectedTag(base="llama-1b", pattern="prod"), ProtectedTag(base="llama-1b", pattern="release-*"))
RETABLED = Retabled(
    base=answers.BASE,
    previous=digest_of("7"),
    changed=True,
    changes=("ties: 2 changed (for example cls.predictions.decoder.bias)",),
    revisions=12,
    materialisations=("llama-1b/support@3 as merged",),
)
MEASURED = BaseMeasured(base="llama-1b", table_digest=digest_of("7"), norms=146, measured=True)
COLLECTED = Collected(
    dry_run=False,
    blobs=(
        CollectedBlob(digest=digest_of("a"), key=KEY, size=6_291_456),
        CollectedBlob(digest=None, key=KEY.replace("blobs", "blocks"), size=608),
    ),
    uploads=1,
    bytes=6_292_064,
    kept_for_grace=2,
)
SOUND = Checked(deep=True, blobs=12, bytes=2_200_119_864, damage=(), orphans=1)
DAMAGED = SOUND.model_copy(
    update={
        "damage": (
            Damage(
                digest=digest_of("a"),
                key=KEY,
                problem="its file is missing",
                takes_down=("llama-1b/support@3", "llama-1b/support/french@2"),
            ),
        )
    }
)
COPIED = Copied(
    source="/data/registry",
    target="https://registry.team",
    base="llama-1b",
    base_created=True,
    revisions=(
        CopiedRevision(source="llama-1b/support@3", reference="llama-1b/support@3", created=False),
        CopiedRevision(source="llama-1b/support/french@2", reference="llama-1b/support/french@7", created=True),
    ),
    bytes_copied=6_292_064,
    notices=("The tag llama-1b/support@prod points at llama-1b/support@1 in https://registry.team and was not moved.",),
)

COMMANDS: dict[str, tuple[list[str], str, Any]] = {
    "delete": (["delete", "llama-1b/support@3"], "delete", DELETED),
    "delete --undo": (["delete", "llama-1b/support@3", "--undo"], "delete", GIVEN_BACK),
    "delete -r": (["delete", "-r", "llama-1b/support", "--yes"], "delete_tree", DELETED_TREE),
    "base delete": (["base", "delete", "-r", "llama-1b", "--yes"], "delete_base", DELETED_BASE),
    "retract": (["retract", "llama-1b/support@3", "--reason", "trained on test data"], "retract", RETRACTED),
    "retract --undo": (["retract", "llama-1b/support@3", "--undo"], "retract", UNDONE),
    "protect-tag": (["base", "protect-tag", "llama-1b", "release-*"], "protect_tag", PROTECTED),
    "retable": (["base", "retable", "llama-1b"], "retable", RETABLED),
    "measure": (["base", "measure", "llama-1b"], "measure_base", MEASURED),
    "gc": (["gc"], "gc", COLLECTED),
    "gc --dry-run": (["gc", "--dry-run"], "gc", COLLECTED.model_copy(update={"dry_run": True})),
    "fsck": (["fsck", "--deep"], "fsck", SOUND),
    "copy": (["copy", "-r", "llama-1b/support", "--to", "https://registry.team"], "copy", COPIED),
}


@pytest.fixture
def life(canned: CannedRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedRegistry]:
    """The canned registry, which knows these commands too."""
    for _, method, answer in reversed(COMMANDS.values()):  # the first of each command stands
        monkeypatch.setitem(answers.ANSWERS, method, answer)
    monkeypatch.setitem(answers.ANSWERS, "show", answers.SHOWN.model_copy(update={"revision": GONE}))
    return canned


def _asked(registry: CannedRegistry, method: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        (args, {name: value for name, value in options.items() if name != "progress"})
        for name, args, options in registry.calls
        if name == method
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document_that_reads_back(name: str, life: CannedRegistry, run: Run) -> None:
    args, method, answer = COMMANDS[name]
    life.answers[method] = answer
    ended = run(*args, "--json")
    assert (ended.code, ended.err) == (0, "")
    if isinstance(answer, Schema):
        assert type(answer).model_validate_json(ended.out) == answer
    else:
        assert [ProtectedTag.model_validate(one) for one in json.loads(ended.out)] == list(answer)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_width_says_the_same_and_fits(
    name: str, columns: int, life: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, method, answer = COMMANDS[name]
    life.answers[method] = answer
    unlimited = run(*args)
    assert unlimited.code == 0, unlimited.err
    assert unlimited.out.strip()
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = run(*args)
    assert sorted(narrow.out.split()) == sorted(unlimited.out.split())
    if columns >= 80:
        assert all(len(line) <= columns or KEY[-20:] in line or "/" not in line for line in narrow.out.splitlines())


def test_delete_and_retract_name_what_is_gone(life: CannedRegistry, run: Run) -> None:
    ended = run("delete", "llama-1b/support@3", "--with-tags")
    assert ended.out == (
        "llama-1b/support@3  deleted 333333333333  tag llama-1b/support@prod is removed\n"
        "  used  12 times in 30 days  by 2 tokens  (fetch 4, Hub 7, vLLM 1)  last 2026-03-04 05:06 UTC\n"
    )
    assert "never reused" in ended.err
    ended = run("retract", "llama-1b/support@3", "--reason", "trained on test data")
    assert ended.out.splitlines()[0] == "llama-1b/support@3"
    for word in ("trained on test data", "llama-1b/support/french@1", "llama-1b/support/french@2", "@prod"):
        assert word in ended.out
    life.answers["retract"] = UNDONE
    assert "available again" in run("retract", "llama-1b/support@3", "--undo").out
    assert _asked(life, "retract") == [
        (("llama-1b/support@3",), {"reason": "trained on test data", "undo": False, "dry_run": False}),
        (("llama-1b/support@3",), {"reason": "", "undo": True, "dry_run": False}),
    ]


@pytest.mark.slow_on("True")
@pytest.mark.parametrize("remote", [False, True])
def test_what_is_deleted_is_listed_first_and_comes_back(
    remote: bool, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry")) as opened, served(opened) as url:
        if remote:
            monkeypatch.setenv("REGISTRY_URL", url)
        tree = here("tree", "--json").out
        for ref in ("net/one", "net"):
            assert here("delete", ref).code == 2
        assert here("tag", "net/one/two", "prod").code == 0
        refused = here("delete", "net/one/two@1", "--json")
        assert (refused.code, json.loads(refused.err)["code"]) == (5, "tagged")
        listed = here("delete", "-r", "net/one")
        assert (listed.code, listed.out.split()[:6]) == (2, ["net/one", "would", "be", "deleted", "3", "revisions"])
        for word in ("net/one@1", "net/one@2", "net/one/two@1", "net/one/two@prod"):
            assert word in listed.out
        assert "`registry delete -r net/one --yes --with-tags` deletes what is listed" in listed.err
        assert here("delete", "-r", "net/one", "--yes").code == 5
        assert here("tree", "--json").out != tree  # tagged, and nothing is gone
        assert here("untag", "net/one/two", "prod", "--if", "@2").code == 5
        assert here("untag", "net/one/two", "prod", "--if", "@1").code == 0
        assert here("tree", "--json").out == tree
        gone = here("delete", "-r", "net/one", "--yes")
        assert (gone.code, gone.out.split()[1:4]) == (0, ["deleted", "3", "revisions"])
        assert "`registry delete -r net/one --undo` restores what was deleted until" in gone.err
        assert here("log", "net/one").code == 3
        assert here("delete", "-r", "net/one", "--undo").code == 0
        assert here("tree", "--json").out == tree
        assert here("delete", "net/other@1").code == 0
        given = here("delete", "net/other@1", "--undo")
        assert (given.code, given.out.split()[:2]) == (0, ["net/other@1", "restored"])
        given = here("delete", "net/other@1", "--undo")
        assert (given.code, given.out) == (0, "net/other@1  was not deleted: nothing to undo\n")
        assert here("delete", "net/other@9", "--undo").code == 3


@pytest.mark.slow_on("True")
@pytest.mark.parametrize("remote", [False, True])
def test_a_base_model_is_deleted_and_comes_back(
    remote: bool, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry")) as opened, served(opened) as url:
        if remote:
            monkeypatch.setenv("REGISTRY_URL", url)
        assert here("base", "delete", "net").code == 5
        assert here("base", "delete", "net", "--yes").code == 5
        listed = here("base", "delete", "-r", "net")
        assert (listed.code, "4 revisions" in listed.out) == (2, True)
        assert "`registry base delete -r net --yes` deletes what is listed" in listed.err
        gone = here("base", "delete", "-r", "net", "--yes")
        assert (gone.code, "The name is available again" in gone.err) == (0, True)
        assert here("base", "list").out == ""
        assert here("base", "delete", "net", "--undo").code == 0
        assert len(json.loads(here("search", "--json").out)["revisions"]) == 3
        again = here("base", "delete", "net", "--undo")
        assert (again.code, again.out) == (0, "net  was not deleted: nothing to undo\n")
        assert here("base", "add", "second", "base").code == 0
        assert here("base", "protect-tag", "second", "prod").code == 0
        listed = here("base", "delete", "second")
        assert (listed.code, listed.out.split()[-2:]) == (2, ["protected", "prod"])
        assert here("base", "protect-tag", "second", "prod", "--remove").code == 0
        assert here("base", "delete", "second").code == 0  # nothing to list
        assert here("base", "add", "third", "0").code == 4  # an adapter


@pytest.mark.parametrize("remote", [False, True])
def test_a_dry_run_lists_changes_nothing_and_ends_well(
    remote: bool, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry")) as opened, served(opened) as url:
        if remote:
            monkeypatch.setenv("REGISTRY_URL", url)
        assert here("fetch", "net/one/two", "-o", "weights").code == 0
        assert opened.deployment.uses is not None
        opened.deployment.uses.write()
        before, events = here("tree", "--json").out, here("events", "--json").out
        for args, words, told in (
            (
                ["retract", "net/one@1"],
                ["would be retracted", "net/one/two@1 (used 1 time in 30 days"],
                "--reason TEXT",
            ),
            (
                ["delete", "net/one/two@1"],
                ["would be deleted", "used  1 time in 30 days  by 1 token"],
                "net/one/two@1`",
            ),
            (["delete", "-r", "net/one"], ["would be deleted  3 revisions", "1 time in 30 days"], "-r net/one --yes"),
            (["base", "delete", "-r", "net"], ["4 revisions", "by 1 token  (fetch 1)"], "delete -r net --yes"),
        ):
            ended = here(*args, "--dry-run")
            assert ended.code == 0, (args, ended.err)
            for word in words:
                assert word in ended.out
            assert "Nothing was" in ended.err
            assert told in " ".join(ended.err.split())
            answer = json.loads(here(*args, "--dry-run", "--json").out)
            assert (answer["done"], answer["use"]["uses"]) == (False, 1)
        assert here("delete", "net/one@1", "--dry-run").code == 5  # as without it
        assert here("base", "delete", "net", "--dry-run").code == 5
        assert here("base", "delete", "net", "-r", "--yes", "--dry-run").code == 0
        assert here("delete", "net/one@1", "--dry-run", "--undo").code == 2
        assert here("retract", "net/one@1", "--dry-run", "--undo").code == 2
        assert (here("tree", "--json").out, here("events", "--json").out) == (before, events)
        done = here("retract", "net/one@1", "--reason", "bad")
        assert "no use recorded" in done.out
        assert "net/one/two@1 (used 1 time in 30 days" in done.out


def at_terminal(args: list[str], typed: str, environ: dict[str, str]) -> tuple[int, str]:
    """A command whose stdin and stderr are a terminal: its exit code, and what it wrote there."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "registry", *args]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, stdin=child, stderr=child, stdout=subprocess.DEVNULL
    ) as process:
        os.close(child)
        os.write(parent, typed.encode())
        said = b""
        try:
            while part := os.read(parent, 4096):
                said += part
        except OSError:  # the other end is closed
            pass
        os.close(parent)
    return process.returncode, said.decode()


@pytest.mark.slow
def test_a_question_at_the_terminal_is_what_yes_skips(here: Run, tmp_path: Path) -> None:
    environ = {"REGISTRY_URL": str(tmp_path / "registry"), "NO_COLOR": "1"}
    code, said = at_terminal(["delete", "-r", "net/one"], "\n", environ)
    assert "Delete what is listed? [y/N]" in said
    assert (code, here("log", "net/one").code) == (2, 0)
    code, said = at_terminal(["delete", "-r", "net/one"], "y\n", environ)
    assert (code, here("log", "net/one").code) == (0, 3)
    assert here("delete", "-r", "net/one", "--undo").code == 0
    assert here("tag", "net/one/two", "prod").code == 0
    code, said = at_terminal(["delete", "-r", "net/one"], "y\n", environ)
    assert "Delete what is listed?" not in said  # it would be refused: a tag points there
    assert (code, here("log", "net/one").code) == (2, 0)


def test_options_of_delete(life: CannedRegistry, run: Run) -> None:
    assert run("delete", "llama-1b/support@3", "--yes").code == 2
    assert not _asked(life, "delete")
    assert run("delete", "llama-1b/support@3", "--undo").out == "llama-1b/support@3  was not deleted: nothing to undo\n"
    life.answers["delete_base"] = DELETED_BASE.model_copy(update={"done": False})
    listed = run("base", "delete", "-r", "llama-1b", "--json")
    assert listed.code == 2
    assert DeletedTree.model_validate_json(listed.out) == life.answers["delete_base"]
    assert json.loads(listed.err)["code"] == "usage"
    assert [options for _, options in _asked(life, "delete_base")] == [{"recursive": True, "dry_run": True}]


@pytest.mark.parametrize("remote", [False, True])
def test_an_undo_of_what_was_not_retracted_says_so(
    remote: bool, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry")) as opened, served(opened) as url:
        if remote:
            monkeypatch.setenv("REGISTRY_URL", url)
        events = here("events").out
        ended = here("retract", "net/one", "--undo")
        assert (ended.code, ended.out) == (0, "net/one@2  was not retracted: nothing to undo\n")
        assert here("events").out == events
        assert here("retract", "net/one@1", "--reason", "bad data").code == 0
        ended = here("retract", "net/one/two", "--undo")
        assert (ended.code, ended.out) == (0, "net/one/two@1  was not retracted: nothing to undo\n")
        assert ended.err == "It is not available because net/one@1, which it contains, was retracted.\n"
        assert "available again" in here("retract", "net/one@1", "--undo").out
        assert "nothing to undo" in here("retract", "net/one@1", "--undo").out
        assert here("retract", "net", "--undo").code == 2
        assert here("retract", "net/absent", "--undo").code == 3


@pytest.mark.parametrize("args", [[], ["--reason", " "], ["--undo", "--reason", "why"]])
def test_a_retraction_has_a_reason_and_an_undo_has_none(args: list[str], life: CannedRegistry, run: Run) -> None:
    ended = run("retract", "llama-1b/support@3", *args)
    assert (ended.code, ended.out) == (2, "")
    assert "--reason" in ended.err
    assert not _asked(life, "retract")


def test_protected_tags_are_listed(life: CannedRegistry, run: Run) -> None:
    ended = run("base", "protect-tag", "llama-1b", "prod", "--remove")
    assert [line.split() for line in ended.out.splitlines()] == [["llama-1b", "prod"], ["llama-1b", "release-*"]]
    assert _asked(life, "protect_tag") == [((), {"base": "llama-1b", "pattern": "prod", "remove": True})]


def test_a_table_made_anew_says_what_hangs_on_it(life: CannedRegistry, run: Run) -> None:
    ended = run("base", "retable", "llama-1b")
    assert ended.out.splitlines()[0] == "llama-1b"
    for word in (
        answers.BASE.table_digest,
        digest_of("7"),
        "cls.predictions.decoder.bias",
        "12 revisions",
        "@3 as merged",
    ):
        assert word in ended.out
    assert "The plans and commit ids" in ended.err
    life.answers["retable"] = Retabled(base=answers.BASE, previous=answers.BASE.table_digest, changed=False)
    ended = run("base", "retable", "llama-1b")
    assert "unchanged: there is nothing to update" in ended.out
    assert "commit" not in ended.err


def test_norms_that_were_there_are_told_from_new_ones(life: CannedRegistry, run: Run) -> None:
    ended = run("base", "measure", "llama-1b")
    assert ended.out.splitlines()[0] == "llama-1b"
    assert "of 146 parameters" in ended.out
    assert "there already" not in ended.out
    life.answers["measure_base"] = MEASURED.model_copy(update={"measured": False})
    assert "they were there already: no weights were read" in run("base", "measure", "llama-1b").out


def test_gc_says_how_much_and_what(life: CannedRegistry, run: Run) -> None:
    ended = run("gc")
    assert re.sub(r" +", " ", ended.out).splitlines()[:3] == [
        "collected 6.29 MB in 2 blobs",
        "uploads 1 unfinished upload",
        "kept 2 blobs in grace",
    ]
    assert "aaaaaaaaaaaa" in ended.out
    assert "no row" in ended.out
    life.answers["gc"] = COLLECTED.model_copy(update={"dry_run": True})
    assert run("gc", "--dry-run").out.startswith("would be collected")
    assert [options for _, options in _asked(life, "gc")] == [{"dry_run": False}, {"dry_run": True}]
    many = tuple(CollectedBlob(digest=None, key=f"{KEY}{number}", size=number) for number in range(50))
    life.answers["gc"] = COLLECTED.model_copy(update={"blobs": many})
    assert "and 30 smaller ones" in run("gc").out
    assert len(json.loads(run("gc", "--json").out)["blobs"]) == 50
    life.answers["gc"] = Collected(dry_run=False, blobs=(), uploads=0, bytes=0, kept_for_grace=0)
    assert run("gc").out.split() == ["collected", "0", "B", "in", "0", "blobs"]


def test_fsck_prints_its_answer_and_ends_with_6_where_something_is_damaged(life: CannedRegistry, run: Run) -> None:
    assert run("fsck", "--deep").out.startswith("sound")
    life.answers["fsck"] = DAMAGED
    ended = run("fsck", "--deep")
    assert ended.code == 6
    assert ended.out.startswith("damaged")
    for word in (KEY, "its file is missing", "llama-1b/support@3", "llama-1b/support/french@2"):
        assert word in ended.out
    assert "1 blob of 12" in ended.err
    ended = run("fsck", "--json")
    assert ended.code == 6
    assert Checked.model_validate_json(ended.out) == DAMAGED
    assert json.loads(ended.err)["code"] == "damaged"


def test_fsck_ends_with_1_where_something_only_could_not_be_read(life: CannedRegistry, run: Run) -> None:
    (damage,) = DAMAGED.damage
    unread = damage.model_copy(update={"state": "unreadable", "problem": "it can't be read: The store is away."})
    life.answers["fsck"] = SOUND.model_copy(update={"damage": (unread,)})
    ended = run("fsck", "--deep")
    assert ended.code == 1
    assert ended.out.startswith("unreadable")
    assert "affects" not in ended.out
    for word in (KEY, "can't be read", "needed by  llama-1b/support@3"):
        assert word in ended.out
    assert "which may be intact" in ended.err
    ended = run("fsck", "--json")
    assert (ended.code, json.loads(ended.err)["code"]) == (1, "unavailable")
    assert json.loads(ended.out)["damage"][0]["state"] == "unreadable"
    life.answers["fsck"] = SOUND.model_copy(update={"damage": (unread, damage)})
    ended = run("fsck", "--deep")
    assert (ended.code, ended.out.partition(" ")[0]) == (6, "damaged")
    assert "1 blob of 12" in ended.err


def test_copy_tells_the_new_references_and_what_stayed(
    life: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run("copy", "-r", "llama-1b/support", "--to", "https://registry.team")
    assert re.sub(r" +", " ", ended.out).splitlines() == [
        "llama-1b/support@3 already present",
        "llama-1b/support/french@7 copied from llama-1b/support/french@2",
    ]
    assert "the base model llama-1b and 1 new revision, 6.29 MB, to https://registry.team" in ended.err
    assert "notice: The tag llama-1b/support@prod" in ended.err
    assert _asked(life, "copy") == [(("llama-1b/support", life), {"recursive": True})]
    assert ("open", ("https://registry.team",), {"create": True}) in life.calls


def test_copy_needs_a_target(life: CannedRegistry, run: Run) -> None:
    ended = run("copy", "llama-1b/support")
    assert ended.code == 2
    assert "--to" in ended.err


def test_help_has_the_commands(run: Run, tmp_path: Path) -> None:
    help_text = run("--help").out
    for command in ("delete", "retract", "gc", "fsck", "copy"):
        assert re.search(rf"^ +{command} ", help_text, re.MULTILINE), command
    assert "protect-tag" in run("base", "--help").out


@pytest.fixture
def here(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs command lines on a real registry with net/one@1..2, net/one/two@1 (on one@1) and net/other@1."""
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (600, 512)})
    assert run("base", "add", "net", "base").code == 0
    for seed, path in enumerate(("net/one", "net/one/two", "net/one", "net/other")):
        write_adapter(tmp_path / str(seed), base, ["a"], r=1, seed=seed)
        assert run("publish", str(seed), path).code == 0
    return run


def test_a_tree_lives(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = here("delete", "net/one@1")
    assert (refused.code, refused.out) == (5, "")
    assert "net/one/two@1" in refused.err
    assert here("delete", "net/other@1").out.startswith("net/other@1  deleted")
    assert "0 blobs" in here("gc").out
    monkeypatch.setenv("REGISTRY_GC_GRACE", "0s")
    said = here("gc", "--dry-run")
    assert said.out.startswith("would be collected")
    done = here("gc")
    assert [line.split() for line in done.out.splitlines()[1:]] == [line.split() for line in said.out.splitlines()[1:]]
    assert "1 blob" in done.out
    assert here("retract", "net/one@1", "--reason", "bad data").code == 0
    gone = here("fetch", "net/one/two", "--json")
    assert gone.code == 3
    assert json.loads(gone.err)["code"] == "retracted"
    assert here("retract", "net/one@1", "--undo").code == 0
    assert here("fetch", "net/one/two").code == 0
    assert here("fsck", "--deep").out.startswith("sound")
    assert here("base", "protect-tag", "net", "release-*").out.split() == ["net", "release-*"]
    assert {"delete", "gc", "retract", "retract undo", "protect tag"} <= {
        event["action"] for event in json.loads(here("events", "--json").out)
    }


def test_damage_is_named_and_a_copy_is_not_touched_by_it(here: Run, tmp_path: Path) -> None:
    assert (
        "Its adapters are copied with -r: `registry copy -r net --to other`."
        in here("copy", "net", "--to", "other").err
    )
    assert "with -r" not in here("copy", "-r", "net", "--to", "other").err
    digest = next(
        file["digest"]
        for file in json.loads(here("show", "net/other", "--json").out)["files"]
        if file["path"] == "adapter_model.safetensors"
    )
    next((tmp_path / "registry/blobs").rglob(f"{digest.removeprefix('sha256:')}-*")).unlink()
    found = here("fsck", "--json")
    assert found.code == 6
    (damage,) = json.loads(found.out)["damage"]
    assert (damage["digest"], damage["takes_down"]) == (digest, ["net/other@1"])
    assert json.loads(found.err)["code"] == "damaged"
    again = here("copy", "-r", "net", "--to", "other")
    assert (again.code, again.out.count("already present")) == (0, 4)
    assert "0 new revisions, 0 B, to " in again.err
    assert here("--url", "other", "fsck", "--deep").out.startswith("sound")
    assert here("--url", "other", "fetch", "net/other", "-o", "out").code == 0
    assert here("copy", "net/absent", "--to", "other").code == 3
    assert here("copy", "-r", "net", "--to", "registry").code == 2
