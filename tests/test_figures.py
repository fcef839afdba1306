"""Numbers, sizes and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import figures


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (6_291_456, "6.29 MB"),
        (2_200_119_864, "2.20 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert figures.size(count) == text


def test_small_words() -> None:
    assert figures.amount(1_100_048_384) == "1.10 B"
    assert figures.amount(22_700_000) == "22.7 M"
    assert figures.counted(1, "file") == "1 file"
    assert figures.counted(2, "file") == "2 files"
    assert figures.number(1.4142135623) == "1.41421"
    assert figures.moment(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == "2025-12-31 23:00"
    assert figures.moment(datetime(2026, 1, 1, 1, tzinfo=UTC)) == "2026-01-01 01:00"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://github.com/acme/adapters/commit/36fbeee7", "github.com/…/36fbeee7"),
        ("https://wandb.ai/acme/x/runs/0000005c/", "wandb.ai/…/0000005c"),
        ("https://runs.team/7", "runs.team/7"),
        ("http://a-host-with-a-long-name.example", "a-host-with-a-long-name.example"),
    ],
)
def test_addresses_are_told_apart_by_their_ends(url: str, text: str) -> None:
    assert figures.short_url(url) == text


@given(st.text())
def test_clean_text_is_printable_and_stays_when_it_was(text: str) -> None:
    cleaned = figures.clean(text)
    assert cleaned.isprintable()
    if text.isprintable():
        assert cleaned == text


def test_commands_are_quoted_as_a_shell_takes_them() -> None:
    text = figures.command("registry", "publish", "./it's mine/x", "llama/a@2", "--annotation", "a=b c")
    assert text == """`registry publish './it'"'"'s mine/x' llama/a@2 --annotation 'a=b c'`"""
    assert figures.command("registry", "tree", "llama") == "`registry tree llama`"


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-5), "just now"),  # of a clock that is ahead
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute"),
        (timedelta(minutes=59, seconds=59), "59 minutes"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(days=2, hours=23), "2 days"),
        (timedelta(days=29), "29 days"),
        (timedelta(days=30), "1 month"),
        (timedelta(days=364), "12 months"),
        (timedelta(days=800), "2 years"),
    ],
)
def test_ages(passed: timedelta, text: str) -> None:
    now = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert figures.age(now - passed, now) == text
    assert figures.age((now - passed).astimezone(timezone(timedelta(hours=5))), now) == text
