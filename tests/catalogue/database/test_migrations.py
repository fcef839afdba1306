"""The schema: made by migrating, the same as the records say, upgraded after a copy, refused when newer."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from registry.catalogue.database import migrations
from registry.catalogue.database.database import Database, Schema
from registry.catalogue.database.team_tables import metadata
from registry.catalogue.tree import revisions
from registry.errors import NotAllowedError, RegistryError, UnavailableError
from registry.reference import Reference
from tests.catalogue.rows import ON_SQLITE, Writer
from tests.root import ROOT


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # on SQLite they can't be compared
def test_the_records_and_the_migrated_schema_are_the_same(database: Database) -> None:
    with database.migrating() as connection:
        options = {"compare_type": True, "include_object": migrations.is_compared}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata()) == []


def test_the_history_in_code_is_that_of_the_files() -> None:
    script = ScriptDirectory.from_config(migrations.configuration())
    assert tuple(one.revision for one in reversed(list(script.walk_revisions()))) == migrations.HISTORY
    assert script.get_heads() == [migrations.HISTORY[-1]]


def test_down_and_up_again(database: Database, writer: Writer) -> None:
    with database.migrating() as connection:
        command.downgrade(migrations.configuration(connection), "base")
        assert inspect(connection).get_table_names() == [migrations.VERSION_TABLE]
    assert database.schema() is Schema.ABSENT
    database.prepare()
    with database.write() as session:
        writer.base(session, "llama")


def test_every_constraint_has_a_name() -> None:
    for table in metadata().tables.values():
        for constraint in table.constraints:
            assert constraint.name, (table.name, constraint)


def test_what_was_loaded_before_there_were_loads_goes_on_counting(filled: Database) -> None:
    with filled.migrating() as connection:
        command.downgrade(migrations.configuration(connection), "0018")
        row = "INSERT INTO uses SELECT id, '2026-11-30', :interface, :who, 1, '2026-11-30 10:00:00' FROM revisions"
        for interface, who in (("hub", "tok_a"), ("fetch", "tok_b")):
            connection.execute(text(f"{row} WHERE number = 1"), {"interface": interface, "who": who})
        command.upgrade(migrations.configuration(connection), "head")
        found = connection.execute(text("SELECT DISTINCT who, weights FROM loads")).all()
    assert [tuple(one) for one in found] == [("tok_a", True)]


def test_the_migrations_can_be_written_out_for_postgresql() -> None:
    config = migrations.configuration()
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    script = config.output_buffer.getvalue()
    assert "SET LOCAL lock_timeout" in script
    assert 'path VARCHAR COLLATE "C" NOT NULL' in script


def test_a_current_schema_needs_no_alembic(filled: Database, url: str) -> None:
    code = (
        "import sys\n"
        "from registry.catalogue.tree import nodes\n"
        "from registry.catalogue.database.database import Database\n"
        f"with Database({url!r}).read() as session: assert nodes.tree(session).roots\n"
        f"with Database({url!r}).write() as session: pass\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('alembic', 'torch')]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_newer_schema_is_refused(filled: Database, url: str) -> None:
    with filled.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    fresh = Database(url)
    for use in (fresh.schema, fresh.prepare, fresh.read().__enter__, fresh.write().__enter__):
        with pytest.raises(UnavailableError, match="written by a newer version") as caught:
            use()
        assert caught.value.code == "schema_newer"
    fresh.dispose()


NEWEST = migrations.HISTORY[-1]
AFTER = f"{int(NEWEST) + 1:04}"
NEXT = '''
"""One more migration, which makes a table anew."""
import sqlalchemy as sa
from alembic import op
revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
def upgrade():
    with op.batch_alter_table("blobs", recreate="always") as batch:
        batch.add_column(sa.Column("colour", sa.String(), nullable=False, server_default="red"))
    {then}
'''


def with_next(monkeypatch: pytest.MonkeyPatch, folder: Path, then: str = "") -> None:
    script, versions = migrations.folders()
    shutil.copytree(versions, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / f"{AFTER}_next.py").write_text(NEXT.format(revision=AFTER, before=NEWEST, then=then))
    monkeypatch.setattr(migrations, "folders", lambda: (script, folder))
    monkeypatch.setattr(migrations, "HISTORY", (*migrations.HISTORY, AFTER))


@ON_SQLITE
def test_an_older_one_is_upgraded_after_a_copy(
    filled: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.dispose()
    (tmp_path / "catalogue.sqlite").chmod(0o640)
    with_next(monkeypatch, tmp_path / "versions")
    fresh = Database(url)
    assert fresh.schema() is Schema.OLDER
    fresh.create()
    assert fresh.schema() is Schema.OLDER, "what is there is left as it is"
    done = fresh.prepare_to_write()
    assert done is not None
    assert (done.before, done.after, done.shuts_out) == (NEWEST, AFTER, True), (
        "this migration says nothing of older programs"
    )
    assert done.told("./here") == (
        f"The registry in ./here was upgraded from schema {NEWEST} to {AFTER}, which programs of {NEWEST} can't use; "
        f"its database of before is {done.copy}"
    )
    assert (fresh.prepare_to_write(), fresh.prepare()) == (None, None)
    with fresh.read() as session:
        assert revisions.find(session, Reference.parse("llama/support/french/legal")).parent_id is not None
        assert set(session.execute(text("SELECT colour FROM blobs")).scalars()) == {"red"}
    fresh.dispose()
    copies = list(tmp_path.glob(f"catalogue.sqlite.before-{AFTER}-from-{NEWEST}*"))
    assert copies == [done.copy]
    assert stat.S_IMODE(copies[0].stat().st_mode) == 0o640
    with sqlite3.connect(copies[0]) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (NEWEST,)
        assert connection.execute("SELECT count(*) FROM revisions").fetchone() == (5,)
    connection.close()
    assert list(tmp_path.glob("*.partial")) == []


@ON_SQLITE
def test_where_no_copy_can_be_made_nothing_is_upgraded(
    filled: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.dispose()
    with_next(monkeypatch, tmp_path / "versions")
    before = (tmp_path / "catalogue.sqlite").read_bytes()
    fresh = Database(url)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
    try:
        with pytest.raises(RegistryError) as caught:
            fresh.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code in {"disk_full", "unavailable"}
    assert fresh.schema() is Schema.OLDER
    fresh.dispose()
    assert (tmp_path / "catalogue.sqlite").read_bytes() == before
    assert list(tmp_path.glob("*before*")) == []


@ON_SQLITE
def test_a_migration_that_would_lose_rows_changes_nothing(
    filled: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.dispose()
    with_next(monkeypatch, tmp_path / "versions", then='op.execute("DELETE FROM adapters")')
    fresh = Database(url)
    with pytest.raises(Exception, match="rows that point at nothing"):
        fresh.prepare()
    assert fresh.schema() is Schema.OLDER
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM adapters").fetchone() == (4,)
    connection.close()
    fresh.dispose()


@ON_SQLITE
def test_an_older_one_that_can_not_be_written(
    filled: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.dispose()
    with_next(monkeypatch, tmp_path / "versions")
    monkeypatch.setattr("registry.catalogue.database.sqlite.is_frozen", lambda path: True)
    fresh = Database(url)
    with pytest.raises(UnavailableError, match="registry db upgrade") as caught, fresh.read():
        pass
    assert caught.value.code == "schema_older"
    with pytest.raises(NotAllowedError) as refused:
        fresh.prepare()
    fresh.dispose()
    assert refused.value.code == "read_only"


def test_the_folders_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_PACKAGE", tmp_path / "registry")
    assert migrations.folders() == (tmp_path / "alembic", tmp_path / "migrations")
    (tmp_path / "registry" / "_alembic").mkdir(parents=True)
    assert migrations.folders() == (tmp_path / "registry/_alembic", tmp_path / "registry/_migrations")


@pytest.mark.slow_on("True")
@pytest.mark.parametrize("named", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_alembic_itself_works_in_a_checkout(tmp_path: Path, named: bool) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("alembic", "migrations"):
        shutil.copytree(ROOT / folder, checkout / folder)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path}/x"} if named else {})
    for arguments in (["upgrade", "head"], ["check"]):
        command_line = [sys.executable, "-m", "alembic", *arguments]
        done = subprocess.run(command_line, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x" if named else checkout / "build/development.sqlite").exists()


@ON_SQLITE
def test_what_finds_revisions_is_there(database: Database) -> None:
    """A migration that makes a table anew drops its triggers and indexes of expressions: it makes them again."""
    with database.migrating() as connection:
        known = connection.execute(text("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'")).all()
        of_texts = {"annotations": 3, "tags": 3, "metrics": 2, "cards": 3}
        assert Counter(table for _, table in known) == {"adapters": 4, "revisions": 8} | of_texts
        connection.execute(
            text("SELECT id FROM adapters INDEXED BY ix_adapters_in_order WHERE replace(path, '/', ' ') > ''")
        )
