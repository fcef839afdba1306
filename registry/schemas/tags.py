"""What changes around a revision: its tags and what they pointed at, what was trained on it, what its weights show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import ConfigDict

from registry.figures import moment, number
from registry.schemas.form import Moment, Param, Schema
from registry.schemas.frames import Column, Described, Listed

NoticeCode = Literal[
    "zero_delta", "one_direction", "duplicate", "larger_than_base", "like_sibling", "undoes_parent", "low_fidelity"
]
NOTICE_CODES: Final[tuple[NoticeCode, ...]] = get_args(NoticeCode)
"""Codes of notices, as docs/notices.md lists them; once shipped, they stay."""
COMPARED_CODES: Final[tuple[NoticeCode, ...]] = ("larger_than_base", "like_sibling", "undoes_parent")
"""Those that take computing, from factors alone."""
MEASURED_CODES: Final[tuple[NoticeCode, ...]] = (*COMPARED_CODES, "low_fidelity")
"""Those that take computing, or rows of the base: of a job after the publish, unless it is strict about them."""


class ChildAdapter(Schema):
    """An adapter with revisions that were trained on a revision, or on a base model."""

    path: str
    revisions: int  # of it that are pinned to it
    newest: str  # of these: PATH@N


class Children(Schema):
    """The adapters with revisions that were trained on a revision; of more than 20, the first by path."""

    total: int  # of these adapters, as far as the token sees them
    adapters: tuple[ChildAdapter, ...]


class TagMove(Schema):
    """A tag pointed at ``old`` before and at ``new`` afterwards, as references ``PATH@N``; None: it did not exist."""

    at: datetime
    actor: str
    old: str | None
    new: str | None


class TagHistory(Schema):
    """A tag that points at a revision, or did: its moves, newest first, of many the newest 20."""

    tag: str
    points_at: str | None  # now; None: it was removed
    moves: tuple[TagMove, ...]


_METRICS: Final = 4  # of a revision, that a line shows


class TagsRequest(Schema):
    """All tags, or those that meet every given condition."""

    path: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="Only tags of adapters at and under this path.",
            examples=("llama/support",),
        ),
    ] = None
    tag: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=128,
            description="Only tags of this name, or that match a pattern as in file names: prod, 'release-*'.",
            examples=("prod",),
            metavar="PATTERN",
        ),
    ] = None
    actor: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="Only tags that were last set under this name.",
            examples=("ada",),
            metavar="NAME",
        ),
    ] = None
    after: Annotated[
        Moment | None,
        Param(
            description="Only tags that were last set at this time or later.",
            examples=("2026-11-25T09:30:00Z",),
            help="Only tags that were last set since then: 24h, 7d, a date or a time in UTC.",
            metavar="TIME",
        ),
    ] = None
    outdated: Annotated[bool, Param(description="Only tags whose adapter has a newer revision.")] = False
    sort: Annotated[
        str | None,
        Param(
            max_length=128,
            description="By when they were set: newest, oldest; by a metric: max:NAME, min:NAME; by its difference to "
            "what the tag named before: max:change:NAME, min:change:NAME. Default: by path and name.",
            examples=("newest",),
            help="newest, oldest, max:acc, or min:change:acc: what became worse first. Default: by path.",
            metavar="ORDER",
        ),
    ] = None
    old_names: Annotated[
        bool,
        Param(
            description="Also what was renamed, under its old name.",
            option="--all",
            help="List old names too: of what was renamed.",
        ),
    ] = False


class TagState(Schema):
    """A tag: what it names, since when, and what it named before."""

    path: str
    tag: str
    reference: str  # PATH@N that it names
    newest: str  # PATH@N: the newest revision of the adapter
    retracted: bool  # what it names is not available
    at: datetime | None  # since when; None: no event tells of it, as after a rename, or of an early version
    actor: str | None  # who set it; None: the same
    previous: str | None  # PATH@N that it named before; None: it is new, or the same
    metrics: dict[str, float]  # of the revision
    previous_metrics: dict[str, float]  # of the one before; empty if that is deleted
    changes: dict[str, float]  # of those that both have: how much larger they are now

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "path": "llama/support",
                "tag": "prod",
                "reference": "llama/support@3",
                "newest": "llama/support@4",
                "retracted": False,
                "at": "2026-03-02T10:15:00Z",
                "actor": "ada",
                "previous": "llama/support@2",
                "metrics": {"acc": 0.75},
                "previous_metrics": {"acc": 0.5},
                "changes": {"acc": 0.25},
            }
        }
    )

    @property
    def is_outdated(self) -> bool:
        """Whether the adapter has a newer revision."""
        return self.reference != self.newest


def _number(reference: str) -> str:
    """``@3`` of ``PATH@3``."""
    return f"@{reference.rpartition('@')[2]}"


def _measured(one: TagState) -> Iterator[str]:
    """The first metrics of what a tag names, each with how much it changed."""
    for name in sorted(one.metrics)[:_METRICS]:
        change = one.changes.get(name)
        yield f"{name}={number(one.metrics[name])}" + ("" if change is None else f" ({change:+.6g})")
    if len(one.metrics) > _METRICS:
        yield f"and {len(one.metrics) - _METRICS} more"


class Tags(Listed[TagState]):
    """Answer of ``tags``: tags with what they name, by path and name if nothing else is asked for."""

    __slots__ = ()
    described = Described(
        noun="tag",
        columns=(
            Column("tag", "tag", lambda one: f"{one.path}@{one.tag}", "tag", lambda one: one.tag),
            Column("reference", "names", style="reference"),
            Column("number", cell=lambda one: _number(one.reference), style="reference"),
            Column(
                "newest",
                "newest",
                lambda one: one.newest if one.is_outdated else "",
                "behind",
                said=lambda one: f"newest is {_number(one.newest)}" if one.is_outdated else "",
                free=True,
            ),
            Column("retracted", "state", lambda one: "retracted" if one.retracted else "", "gone"),
            Column("at", "since (UTC)", lambda one: "" if one.at is None else moment(one.at), "quiet"),
            Column("actor", "by", before="by", style="quiet", free=True),
            Column(
                "previous",
                "before",
                style="reference",
                before="was",
                said=lambda one: () if one.previous is None else _number(one.previous),
            ),
            Column("metrics", "metrics", lambda one: tuple(_measured(one))),
            Column("metric", value=lambda one: one.metrics),
            Column("before", value=lambda one: one.previous_metrics),
            Column("change", value=lambda one: one.changes),
        ),
        screen="tag number at | retracted newest previous actor metrics",
        heads="TAG | NAMES | SINCE (UTC) | NEWEST, BEFORE, BY, METRICS",
        table="tag reference newest retracted at actor previous metrics",
        frame="path tag reference newest retracted at actor previous metric.* before.* change.*",
    )


class Notice(Schema):
    """What the weights of a revision show, and its publisher may not have meant; in Python, also what else is told."""

    code: str  # one of `NOTICE_CODES`; later versions have others; "": of its files or its parent
    text: str
    reference: str | None = None  # the other revision that it is about
    modules: int | None = None  # how many modules it is about
    of: int | None = None  # of so many that the adapter has factors of
    names: tuple[str, ...] = ()  # the first of them
    value: float | None = None  # the ratio of norms, the cosine, or the share that it is about

    def __str__(self) -> str:
        return f"{self.text} ({self.code})" if self.code else self.text


def is_empty(value: tuple[object, ...]) -> bool:
    """Whether a field is absent from what travels: older clients refuse what they don't know."""
    return not value


def all_notices(told: Iterable[str], noticed: Iterable[Notice]) -> tuple[Notice, ...]:
    """All notices of a revision: what its files and its parent gave rise to, and what its weights show."""
    return (*(Notice(code="", text=text) for text in told), *noticed)


def notice(
    code: str,
    *,
    reference: str | None = None,
    modules: int | None = None,
    of: int | None = None,
    names: tuple[str, ...] = (),
    value: float | None = None,
) -> Notice:
    """A notice with its sentence."""
    more = f" and {(modules or 0) - len(names)} more" if (modules or 0) > len(names) else ""
    words = {
        "some": f"{modules} of {of} modules",
        "names": f"{', '.join(names)}{more}",
        "reference": reference,
        "value": value or 0.0,
    }
    known = _NOISE if code == "low_fidelity" and (value or 0.0) > 1 else _SENTENCES.get(code, _LATER)
    text = known.format(**words)
    return Notice(code=code, text=text, reference=reference, modules=modules, of=of, names=names, value=value)


_LATER: Final = "A later version noticed it: see the documentation of the code."
_NOISE: Final = (
    "A merge in bf16 would add {value:.3g} times as much rounding noise as there is change: merge with --dtype fp32, "
    "or fetch it --as lora, which leaves the base unrounded."
)
"""Of `low_fidelity` if the change survives on average: a share is at most 1, and noise below that is not reported."""
_SENTENCES: Final[dict[str, str]] = {
    "zero_delta": "The delta of {some} is zero: {names}.",
    "one_direction": "The delta of {some} has one direction only, whatever the rank: {names}.",
    "duplicate": "The configuration and the weights are those of {reference}, byte for byte.",
    "larger_than_base": (
        "The delta of {some} is larger than the weight of the base model, up to {value:.3g} times: {names}."
    ),
    "like_sibling": "The delta is nearly that of {reference}, but for its size: their cosine is {value:.4f}.",
    "undoes_parent": "The delta undoes {value:.0%} of that of its parent {reference}.",
    "low_fidelity": (
        "A merge in bf16 would keep {value:.0%} of its change: merge with --dtype fp32, or fetch it --as lora, which "
        "leaves the base unrounded."
    ),
}
