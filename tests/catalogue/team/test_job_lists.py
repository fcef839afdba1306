"""Lists of jobs: one's own, or everyone's for an admin of everything; in pages, newest first, without notices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import update

from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import JobRecord
from registry.catalogue.team import jobs
from registry.catalogue.team.jobs import JobPosition
from registry.rights import Principal
from registry.schemas.jobs import JobCounts, JobsRequest, JobSummary
from tests.catalogue.rows import BOB, TESTER, rights
from tests.kit.statements import statements

RIA: Final = Principal("ria", rights("writer", "llama/support"), token="tok_ria", source="192.0.2.9")
ADMIN_OF_A_PART: Final = Principal("ada", rights("admin", "llama"), token="tok_ada")
SERVICE: Final = Principal("registry", rights("admin"))
FIRST: Final = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def ids(database: Database) -> list[str]:
    """Seven jobs, oldest first: two of the same moment, one that failed, two that nobody asked for."""
    made = []
    with database.write() as session:
        for number, (kind, principal, subject) in enumerate(
            [
                ("publish", RIA, "llama/support"),
                ("notice", SERVICE, "llama/support@1"),
                ("gc", BOB, None),
                ("materialise", RIA, "llama/support@1"),
                ("publish", ADMIN_OF_A_PART, "llama/code"),
                ("notice", SERVICE, "llama/code@1"),
                ("dense", RIA, "llama/support@1"),
            ]
        ):
            row = jobs.enqueue(session, kind, f"request {number}", principal, subject=subject)
            made.append(row.id)
            at = FIRST + timedelta(minutes=min(number, 5))  # the last two at the same time
            session.execute(update(JobRecord).where(JobRecord.id == row.id).values(created_at=at))
        claimed = jobs.claim(session, "me", ("materialise",))
        assert claimed is not None
        jobs.fail(session, claimed.id, "me", '{"code": "unavailable", "detail": "The store is down.", "status": 503}')
    return made


def listed(database: Database, principal: Principal, **request: str) -> list[JobSummary]:
    with database.read() as session:
        asked = JobsRequest.model_validate(request)
        return list(jobs.listing(session, principal, asked, after=None, limit=None))


def test_one_sees_ones_own_and_an_admin_of_everything_sees_all(database: Database, ids: list[str]) -> None:
    publish, notice, gc, materialise, code, other_notice, dense = ids
    assert [one.id for one in listed(database, RIA)] == [dense, materialise, publish]
    assert [one.id for one in listed(database, ADMIN_OF_A_PART)] == [code]
    assert [one.id for one in listed(database, TESTER)] == [dense, code, materialise, gc, publish]
    assert [one.id for one in listed(database, TESTER, kind="notice")] == [other_notice, notice]
    assert listed(database, RIA, kind="notice") == []
    assert listed(database, Principal("ria", rights("reader"))) == []  # the name alone is no token


def test_a_job_says_what_it_is_about_and_how_it_ended(database: Database, ids: list[str]) -> None:
    failed, *rest = listed(database, RIA, state="failed")
    assert rest == []
    assert (failed.id, failed.kind, failed.subject) == (ids[3], "materialise", "llama/support@1")
    assert (failed.actor, failed.token) == ("ria", "tok_ria")
    assert (failed.code, failed.detail) == ("unavailable", "The store is down.")
    everything = listed(database, TESTER, kind="gc")[0]
    assert (everything.subject, everything.code, everything.state) == (None, None, "pending")


def test_pages_together_are_the_whole(database: Database, ids: list[str]) -> None:
    with database.write() as session:  # all of one moment: the key alone says the order
        session.execute(update(JobRecord).values(created_at=FIRST))
    for principal in (RIA, TESTER):
        whole = listed(database, principal)
        found: list[JobSummary] = []
        last: JobPosition | None = None
        with database.read() as session:
            while page := jobs.listing(session, principal, JobsRequest(), after=last, limit=1):
                found += page
                last = JobPosition(page[-1].created_at, page[-1].id)
        assert found == whole
        assert sorted((one.id for one in whole), reverse=True) == [one.id for one in whole]


def test_a_list_reads_no_requests_and_no_results(database: Database, ids: list[str]) -> None:
    with statements("SELECT") as sent:
        listed(database, TESTER)
    assert len(sent) == 1
    assert "request" not in sent[0][0]
    assert "result" not in sent[0][0]


def test_jobs_are_counted(database: Database, ids: list[str]) -> None:
    with database.read() as session:
        asked, notices = jobs.counts(session, FIRST)
        later = jobs.counts(session, FIRST + timedelta(days=1))
    assert asked == JobCounts(pending=4, running=0, failed=1, oldest_pending_at=FIRST)
    assert notices == JobCounts(pending=2, running=0, failed=0, oldest_pending_at=FIRST + timedelta(minutes=1))
    assert [(one.pending, one.failed) for one in later] == [(4, 0), (2, 0)]
    database.change(lambda session: jobs.claim(session, "me", ("publish", "gc", "dense")))
    with database.read() as session:
        asked, _ = jobs.counts(session, FIRST)
    assert (asked.pending, asked.running, asked.oldest_pending_at) == (3, 1, FIRST + timedelta(minutes=2))
