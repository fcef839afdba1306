"""What is told of a revision: what was trained on it, what its tags pointed at, what its weights show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal, get_args

from registry.schemas.form import Schema

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
    revisions: int  # of it that are pinned there
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
    """All that there is to say of a revision: what its files and its parent gave rise to, and what its weights show."""
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
"""Of `low_fidelity` where the change survives on average: a share is at most 1, and noise below that is not told."""
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
