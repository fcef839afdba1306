"""The command materialise: what it prints, refuses and asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from registry.schemas import Collected, Damage, Materialisation, Materialised
from tests.cli import canned as answers
from tests.cli.canned import WHEN, CannedRegistry, digest_of
from tests.cli.commands.test_removal import COLLECTED, DAMAGED, KEY
from tests.cli.conftest import Run

MERGED = Materialisation(
    id="mat_06921759f63d",
    reference="llama-1b/support/french@2",
    digest=digest_of("2"),
    kind="merged",
    rendering=digest_of("f"),
    numerics="0123456789abcdef",
    size=2_204_000_000,
    files=9,
    created_at=WHEN,
    created_by="anna",
    expires_at=WHEN + timedelta(days=30),
)
LORA = MERGED.model_copy(update={"id": "mat_1b2c3d4e5f60", "kind": "lora", "size": 6_292_168, "files": 2})
MADE = Materialised(materialisation=MERGED, created=True, bytes_stored=2_198_000_000)
ANSWERS = {
    "materialise": MADE,
    "materialisations": (LORA, MERGED),
    "drop_materialisation": (MERGED,),
    "gc": COLLECTED,
    "fsck": DAMAGED,
}
COMMANDS: dict[str, tuple[list[str], str]] = {
    "make": (["materialise", "llama-1b/support/french", "--as", "merged"], "materialise"),
    "list": (["materialise", "--list"], "materialisations"),
    "drop": (["materialise", "--drop", "mat_06921759f63d"], "drop_materialisation"),
}


@pytest.fixture
def kept(canned: CannedRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedRegistry]:
    """The canned registry, which knows these commands too."""
    for method, answer in ANSWERS.items():
        monkeypatch.setitem(answers.ANSWERS, method, answer)
    return canned


def _asked(registry: CannedRegistry) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    return [
        (name, args, {key: value for key, value in options.items() if key != "progress"})
        for name, args, options in registry.calls
        if name != "open"
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document_that_reads_back(name: str, kept: CannedRegistry, run: Run) -> None:
    args, method = COMMANDS[name]
    ended = run(*args, "--json")
    assert (ended.code, ended.err) == (0, "")
    if method == "materialise":
        assert Materialised.model_validate_json(ended.out) == MADE
    else:
        assert tuple(Materialisation.model_validate(one) for one in json.loads(ended.out)) == ANSWERS[method]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_width_says_the_same_and_fits(
    name: str, columns: int, kept: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlimited = run(*COMMANDS[name][0])
    assert unlimited.code == 0, unlimited.err
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = run(*COMMANDS[name][0])
    assert _words(narrow.out) == _words(unlimited.out)
    if columns >= 40:
        assert all(len(line) <= columns for line in narrow.out.splitlines())


def _words(out: str) -> list[str]:
    """All words but those of a header, for which narrow lines have no room."""
    lines = out.splitlines()
    return sorted(" ".join(lines[1:] if lines[0].startswith("ID") else lines).split())


def test_the_id_comes_first_and_what_was_there_is_said(kept: CannedRegistry, run: Run) -> None:
    ended = run("materialise", "llama-1b/support/french", "--as", "merged", "--expires", "90d")
    assert ended.out.splitlines()[0] == "mat_06921759f63d"
    for word in ("llama-1b/support/french@2", "as merged", "2.20 GB in 9 files", "newly stored", "2026-04-03"):
        assert word in ended.out
    kept.answers["materialise"] = MADE.model_copy(update={"created": False, "bytes_stored": 0})
    assert "already materialised" in run("materialise", "llama-1b/support/french").out
    assert _asked(kept) == [
        (
            "materialise",
            ("llama-1b/support/french",),
            {"kind": "merged", "expires_in": 90 * 86400, "fidelity": "sample"},
        ),
        ("materialise", ("llama-1b/support/french",), {"kind": "lora", "expires_in": None, "fidelity": "sample"}),
    ]


def test_what_is_listed_and_dropped(kept: CannedRegistry, run: Run) -> None:
    header, *rows = run("materialise", "--list", "llama-1b/support").out.splitlines()
    assert header.split()[:2] == ["ID", "SIZE"]
    assert [row.split()[0] for row in rows] == [LORA.id, MERGED.id]
    kept.answers["materialisations"] = ()
    ended = run("materialise", "--list")
    assert (ended.code, ended.out) == (0, "")
    assert "Nothing is materialised" in ended.err
    ended = run("materialise", "--drop", "llama-1b/support/french@2", "--as", "merged")
    assert ended.out == "mat_06921759f63d  dropped: llama-1b/support/french@2 as merged\n"
    assert _asked(kept) == [
        ("materialisations", ("llama-1b/support",), {}),
        ("materialisations", (None,), {}),
        ("drop_materialisation", ("llama-1b/support/french@2",), {"kind": "merged"}),
    ]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "needs a REF"),
        (["--drop"], "needs a REF"),
        (["--list", "--drop", "x/y"], "--drop"),
        (["--list", "--as", "lora"], "--as"),
        (["--drop", "x/y", "--expires", "3d"], "--expires"),
        (["x/y", "--expires", "soon"], "--expires"),
        (["x/y", "--as", "both"], "--as"),
    ],
)
def test_what_does_not_go_together_is_refused(args: list[str], said: str, kept: CannedRegistry, run: Run) -> None:
    ended = run("materialise", *args)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert _asked(kept) == []


def test_gc_and_fsck_name_them(kept: CannedRegistry, run: Run) -> None:
    kept.answers["gc"] = Collected(
        dry_run=True, blobs=(), uploads=0, bytes=0, kept_for_grace=2, materialisations=(MERGED,)
    )
    assert ["expired", "1", "materialisation"] in [line.split() for line in run("gc", "--dry-run").out.splitlines()]
    damage = Damage(
        digest=digest_of("a"),
        key=KEY,
        problem="its file is missing",
        takes_down=(),
        materialisations=("llama-1b/support/french@2 as merged",),
    )
    kept.answers["fsck"] = DAMAGED.model_copy(update={"damage": (damage,)})
    ended = run("fsck", "--deep")
    assert ended.code == 6
    assert "llama-1b/support/french@2 as merged" in ended.out
    assert "affecting 1 materialisation; drop it and materialise it again" in ended.err
    kept.answers["fsck"] = DAMAGED.model_copy(update={"damage": (*DAMAGED.damage, damage)})
    assert "2 revisions and base models and 1 materialisation" in run("fsck", "--deep").err
