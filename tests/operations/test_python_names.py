"""What stands at the top of the package, what completion offers, and the names of float types.

What is meant by a start: a duration before now, a date, a time.
"""

from __future__ import annotations

import inspect
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch

import registry
import registry.pool
import registry.training
from registry.errors import UsageError
from registry.operations.arguments import dtype_name, start_of
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter


def test_all_errors_are_in_the_package() -> None:
    errors = {name for name, one in vars(registry.errors).items() if inspect.isclass(one) and name.endswith("Error")}
    assert errors <= set(registry.__all__)
    assert all(getattr(registry, name) is getattr(registry.errors, name) for name in errors)


def test_completion_offers_what_users_call(tmp_path: Path) -> None:
    for part, names in (
        (registry.pool, {"AdapterPool"}),
        (registry.training, set(registry.training.__all__)),
    ):
        assert {name for name in dir(part) if not name.startswith("_")} == names
    assert {name for name in dir(registry) if not name.startswith("__")} == set(registry.__all__) - {"__version__"}
    with closing(LocalRegistry.open(tmp_path, create=True)) as team:
        offered = {name for name in dir(team) if not name.startswith("__")}
        assert {"publish", "fetch", "tree", "url", "close"} <= offered
        assert not offered & {"do", "begin_upload", "commit_publish", "with_principal", "deployment", "open_blob"}
        assert all(inspect.getdoc(getattr(type(team), name)) for name in offered)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bf16", "bf16"),
        ("bfloat16", "bf16"),
        (torch.bfloat16, "bf16"),
        ("torch.float16", "fp16"),
        (torch.float32, "fp32"),
    ],
)
def test_a_float_type_has_torch_s_names_too(given: object, name: str) -> None:
    assert dtype_name(given) == name


def test_weights_are_read_in_the_float_type_that_is_named(tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base")
    with closing(LocalRegistry.open(tmp_path / "registry", create=True)) as team:
        team.add_base("tiny", base.folder)
        team.publish(write_adapter(tmp_path / "a", base, list(base.modules)[:1], r=2), "tiny/a")
        with team.artifact("tiny/a", kind="merged", dtype=torch.bfloat16) as artifact:  # type: ignore[arg-type]
            assert {tensor.dtype for _, tensor in artifact.tensors()} == {torch.bfloat16}
        with pytest.raises(registry.UsageError, match="dtype is 'int8'"):
            team.artifact("tiny/a", dtype="int8")  # type: ignore[arg-type]


EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2026-03-04", datetime(2026, 3, 4, tzinfo=UTC)),
        ("2026-03-04T05:06", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-04 05:06:07", datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)),
        (" 2026-03-04T05:06:07.5Z ", datetime(2026, 3, 4, 5, 6, 7, 500000, tzinfo=UTC)),
        ("2026-03-04T05:06+02:00", datetime(2026, 3, 4, 3, 6, tzinfo=UTC)),
        (datetime(2026, 3, 4, 5, 6), datetime(2026, 3, 4, 5, 6, tzinfo=UTC)),  # noqa: DTZ001 - it is about that
        (datetime(2026, 3, 4, 5, 6, tzinfo=EAST), datetime(2026, 3, 4, 3, 6, tzinfo=UTC)),
    ],
)
def test_a_date_or_a_time_is_in_utc(given: str | datetime, meant: datetime) -> None:
    found = start_of(given)
    assert (found, found.utcoffset()) == (meant, timedelta(0))


@pytest.mark.parametrize(
    ("given", "ago"), [("24h", timedelta(days=1)), ("7d", timedelta(days=7)), (timedelta(minutes=3), timedelta(0, 180))]
)
def test_a_duration_is_before_now(given: str | timedelta, ago: timedelta) -> None:
    before = datetime.now(UTC)
    found = start_of(given)
    assert before - ago <= found <= datetime.now(UTC) - ago


@pytest.mark.parametrize(
    "given",
    ["", "yesterday", "24", "1w", "2026-13-01", "999999999d", "0001-01-01T00:00+02:00", "\x00", timedelta(days=10**6)],
)
def test_anything_else_is_refused(given: str | timedelta) -> None:
    with pytest.raises(UsageError, match="24h, 7d, a date such as 2026-03-04, or a time"):
        start_of(given)
