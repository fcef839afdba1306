"""The log of an adapter at every width: metrics in columns, and everything else said too."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.cli.render.screen import lines_of
from registry.schemas import DeletedRevision, Log, sheets
from tests.cli.canned import WHEN, digest_of, revision_of

PATH = "llama/support"
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,20}", fullmatch=True)
METRICS = st.lists(st.dictionaries(NAMES, st.floats(-1e9, 1e9), max_size=6), min_size=1, max_size=4)


def log_of(*metrics: dict[str, float], deleted: bool = False) -> Log:
    revisions = tuple(
        revision_of(PATH, 2 * at + 1, "llama", metrics=one, message="Tickets of May")
        for at, one in reversed(list(enumerate(metrics)))
    )
    gone = DeletedRevision(
        reference=f"{PATH}@2",
        number=2,
        digest=digest_of("2"),
        message="wrong file",
        deleted_at=WHEN,
        deleted_by="anna",
        until=WHEN + timedelta(days=1),
    )
    return Log(path=PATH, revisions=revisions, deleted=(gone,) if deleted else ())


def text(log: Log, width: int | None) -> list[str]:
    return ["".join(span.text for span in line) for line in lines_of([sheets.log(log, width)], width)]


def test_metrics_stand_below_each_other() -> None:
    log = log_of({"acc": 0.87, "eval_loss": 0.4}, {"acc": 0.9, "eval_loss": 0.31, "f1": 0.5}, {"acc": 0.9125})
    assert text(log, 120)[1:] == [
        "REV  PUBLISHED (UTC)   RANK     SIZE  PARENT  AUTHOR     acc  eval_loss   f1  REMARKS",
        "@5   2026-03-04 05:06     8  6.29 MB  llama   anna    0.9125          -    -  parent proven  Tickets of May",
        "@3   2026-03-04 05:06     8  6.29 MB  llama   anna       0.9       0.31  0.5  parent proven  Tickets of May",
        "@1   2026-03-04 05:06     8  6.29 MB  llama   anna      0.87        0.4    -  parent proven  Tickets of May",
    ]
    assert text(log, 40)[1:4] == [
        "REV     acc  eval_loss   f1  REMARKS",
        "@5   0.9125          -    -",
        "    2026-03-04 05:06  8  6.29 MB  llama",
    ]


def test_a_revision_of_whole_tensors_has_no_rank() -> None:
    log = log_of({})
    exact = log.revisions[0].model_copy(update={"rank": 0})
    lines = text(log.model_copy(update={"revisions": (exact,)}), None)
    assert lines[2].split()[3:5] == ["-", "6.29"]


def test_in_a_pipe_every_metric_has_a_column_and_every_revision_a_line() -> None:
    log = log_of(*({f"metric-{at}": float(at)} for at in range(30)))
    lines = text(log, None)
    assert len(lines) == 32
    assert lines[1].split()[7:-1] == sorted(f"metric-{at}" for at in range(30))
    assert len({len(line.split()) for line in lines[2:]}) == 1  # fields can be counted


def test_deleted_numbers_stand_in_their_place() -> None:
    lines = text(log_of({"acc": 0.5}, {"acc": 0.6}, deleted=True), None)
    assert [line.split()[0] for line in lines[2:]] == ["@3", "@2", "@1"]
    assert "deleted 2026-03-04 05:06 by anna  can be restored until 2026-03-05 05:06  wrong file" in lines[3]


@pytest.mark.long_but("20", "80", "None")
@pytest.mark.parametrize("width", [20, 40, 80, 200, None])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # how busy the machine is does not matter
@given(metrics=METRICS)
def test_every_value_is_said_once_at_every_width(width: int | None, metrics: list[dict[str, float]]) -> None:
    log = log_of(*metrics, deleted=True)
    lines = text(log, width)
    if width is not None:
        longest = max(len(name) for one in metrics for name in one) if any(metrics) else 0
        assert all(len(line) <= max(width, longest + 24) for line in lines)
    names = {name for one in metrics for name in one}
    header = lines[1].split() if lines[1].startswith("REV") else []
    columns = [word for word in header if word in names]
    records = re.split(r"^(?=@\d+\b)", "\n".join(lines[1:]), flags=re.MULTILINE)[1:]
    assert [record.split()[0] for record in records] == [f"@{one}" for one in numbers(log)]
    by_number = {one.number: one for one in log.revisions}
    for record in records:
        revision = by_number.get(int(record.split()[0][1:]))
        for name in (revision.metrics if revision else {}).keys() - set(columns):
            assert f"{name}={revision.metrics[name]:.6g}" in record.split()  # type: ignore[union-attr]
        for name in columns:
            value = f"{revision.metrics[name]:.6g}" if revision and name in revision.metrics else "-"
            assert value in record.splitlines()[0].split()


def numbers(log: Log) -> list[int]:
    return sorted([*(one.number for one in log.revisions), *(one.number for one in log.deleted)], reverse=True)
