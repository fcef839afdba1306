"""A folder of an older program: what only reads leaves every byte, what writes upgrades it first and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command

import registry
from registry import app
from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database, sqlite_url
from registry.cli.table import COMMANDS, GROUPS
from registry.errors import UnavailableError
from registry.operations import table
from registry.operations.operation import Operation
from registry.services.deployment import DATABASE
from tests.catalogue.database.test_upgrading import OLD_ROWS
from tests.cli.conftest import Ended

NEWEST = migrations.HISTORY[-1]
Run = Callable[..., Ended]

READING = (
    "tree", "log llama/x", "show llama/x", "diff llama/x llama/x@1", "stats llama/x", "check llama/x --engine vllm",
    "resolve llama/x", "search", "search --depth 1", "card llama/x", "fetch llama/x -o HERE/out",
    "export llama/x HERE/out", "events", "jobs", "health", "du", "fsck", "fsck --deep", "base list",
    "tags", "tag llama/x", "token list", "retention show llama/x", "materialise --list", "tree --json",
    "ps", "follow llama/x@prod --to folder=HERE/served --once",
    # What would write, and says first what it would do.
    "gc --dry-run", "delete llama/x@1 --dry-run", "base delete llama --dry-run", "retention run llama/x --dry-run",
    "rebase llama/x --onto llama --dry-run",
)  # fmt: skip
"""Refused, with the command to type. HERE is a folder beside the registry."""
BESIDE = ("whoami", "identify HERE/new", "verify HERE/new", "import HERE/new --plan HERE/plan.json", "env",
          "publish HERE/new llama/y --dry-run")  # fmt: skip
"""They may get by without the registry, or be refused for another reason: they leave it as it is."""
WRITING = (
    "tag llama/x prod", "annotate llama/x --annotation a=b", "card llama/x --file HERE/card.md",
    "base add other HERE/new",
    "token create --role reader", "gc", "publish HERE/new llama/y", "delete llama/x@1",
    "copy llama --to HERE/registry --url HERE/another",
)  # fmt: skip
ELSEWHERE = {
    "untag", "rename", "materialise", "retract", "combine", "rebase", "base rename", "base also-known-as",
    "base delete", "base retable", "base measure", "base protect-tag", "retention set", "retention clear",
    "retention run", "token revoke",  # operations of the table that write: all are asked below
    "login", "logout", "serve", "demo", "db upgrade",
}  # fmt: skip


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A registry in a folder, as a program of the schema that the test names left it."""
    return old_folder(tmp_path / "registry", request.param)


def old_folder(folder: Path, schema: str) -> Path:
    database = Database(sqlite_url(folder / DATABASE))
    with database.migrating() as connection:
        command.upgrade(migrations.configuration(connection), "0001")
        for statement in OLD_ROWS:
            connection.exec_driver_sql(statement)
        command.upgrade(migrations.configuration(connection), schema)
    database.dispose()
    (folder.parent / "new").mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def schema_of(folder: Path) -> str | None:
    database = Database(sqlite_url(folder / DATABASE))
    try:
        return database.version()
    finally:
        database.dispose()


def typed(run: Run, folder: Path, line: str) -> Ended:
    words = line.replace("HERE", str(folder.parent)).split()
    return run(*words, *([] if "--url" in words else ["--url", str(folder)]))


@pytest.mark.parametrize(
    "old",
    [pytest.param("0001", marks=pytest.mark.slow), "0004", pytest.param("0010", marks=pytest.mark.slow), "0018"],
    indirect=True,
)
def test_what_reads_changes_no_byte_and_says_what_to_type(old: Path, request: pytest.FixtureRequest, run: Run) -> None:
    before, schema = content(old), request.node.callspec.params["old"]
    said = (
        f"The registry in {old} has the schema {schema} of an older program, and this one needs {NEWEST}: "
        f"`registry db upgrade --url {old}` upgrades it, after copying its database."
    )
    for line in READING:
        ended = typed(run, old, line)
        assert (ended.code, ended.out) == (1, "") or "--json" in line, (line, ended)
        assert said in ended.err + ended.out, (line, ended)
        assert content(old) == before, line
    for line in BESIDE:
        typed(run, old, line)
        assert content(old) == before, line
    with registry.connect(old) as opened:
        for use in (opened.tree, opened.bases, lambda: opened.artifact("llama/x"), opened.search, opened.fsck):
            with pytest.raises(UnavailableError) as caught:
                use()
            assert (caught.value.code, str(caught.value)) == ("schema_older", said)
    assert content(old) == before
    ended = run("db", "upgrade", "--url", str(old))
    copy = old / f"{DATABASE}.before-{NEWEST}-from-{schema}"
    assert f"{schema} -> {NEWEST}" in ended.out
    assert str(copy) in ended.out
    assert typed(run, old, "tree").code == 0
    assert copy.read_bytes() == before[DATABASE] or schema_of_copy(copy) == schema


def schema_of_copy(copy: Path) -> str | None:
    database = Database(sqlite_url(copy))
    try:
        return database.version()
    finally:
        database.dispose()


@pytest.mark.parametrize("old", ["0014"], indirect=True)
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=line.split()[0], marks=() if line.startswith(("tag", "copy")) else pytest.mark.slow)
        for line in WRITING
    ],
)
def test_the_first_that_writes_upgrades_and_says_so(old: Path, line: str, run: Run) -> None:
    (old.parent / "card.md").write_text("words")
    if "another" in line:
        with registry.connect(old.parent / "another"):
            pass
    copy = old / f"{DATABASE}.before-{NEWEST}-from-0014"
    said = (
        f"notice: The registry in {old} was upgraded from schema 0014 to {NEWEST}, which programs of 0014 can't use; "
        f"its database of before is {copy}.\n"
    )
    assert said in typed(run, old, line).err
    assert schema_of(old) == NEWEST
    assert schema_of_copy(copy) == "0014"
    assert typed(run, old, "tree").code == 0
    assert "upgraded" not in typed(run, old, "tag llama/x other").err


@pytest.mark.parametrize("old", ["0018"], indirect=True)
def test_python_is_told_by_the_log_and_a_service_upgrades_before_it_answers(
    old: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str | None] = []
    monkeypatch.setattr("registry.http.server.serve", lambda *_, **__: served.append(schema_of(old)))
    with caplog.at_level(logging.WARNING):
        app.serve(old, host="127.0.0.1", port=0)
        with registry.connect(old) as opened:
            opened.tag("llama/x", "prod")
    assert served == [NEWEST]
    (line,) = [record.getMessage() for record in caplog.records if "upgraded" in record.getMessage()]
    assert line == (
        f"The registry in {old} was upgraded from schema 0018 to {NEWEST}; its database of before is "
        f"{old / DATABASE}.before-{NEWEST}-from-0018."
    )


def test_every_command_is_known_to_read_or_to_write() -> None:
    named = {*COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)} - set(GROUPS)
    asked = {" ".join(line.split()[:2]) if line.split()[0] in GROUPS else line.split()[0] for line in
             (*READING, *BESIDE, *WRITING)}  # fmt: skip
    assert asked | ELSEWHERE == named


def test_every_operation_is_known_to_read_or_to_write() -> None:
    class Asked:
        dry_run = False

    writing = {one.name for one in table.OPERATIONS if Operation.writes(one, Asked())}  # type: ignore[arg-type]
    assert writing == {
        "tag", "undo_tag", "untag", "annotate", "protect_tag", "set_card", "rename", "rename_base", "also_known_as",
        "create_token", "revoke_token", "plan_publish", "commit_publish", "rebase", "combine", "plan_base",
        "commit_base", "retable", "measure_base", "materialise", "drop_materialisation", "delete", "undelete",
        "delete_tree", "undelete_tree", "delete_base", "undelete_base", "set_retention", "clear_retention",
        "run_retention", "retract", "gc",
    }  # fmt: skip
    Asked.dry_run = True
    assert not [one.name for one in table.OPERATIONS if Operation.writes(one, Asked())]  # type: ignore[arg-type]
