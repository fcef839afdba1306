"""How the parent of a revision is known, and what a folder that was trained on shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from registry.errors import UsageError
from registry.schemas.form import Base64, Schema

KNOWN_BY: Final = "^[a-z_]{1,32}$"
"""Words for how a parent is known; later versions have more of them."""

Level = Literal["proven", "stated", "assumed"]
"""How far a word can be relied on: *proven* by bytes, *stated* by somebody or something, *assumed* by the registry."""
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
Policy = Literal["any", "stated", "proven"]
"""Which parents a registry accepts, see `accepted`."""
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)


@dataclass(frozen=True)
class Word:
    """What a word for how a parent is known says."""

    level: Level
    clause: str  # as people read it; what is assumed says from what


PARENT_WORDS: Final[Mapping[str, Word]] = MappingProxyType(
    {
        "receipt": Word("proven", "known by the receipt of its folder"),
        "view": Word("proven", "known by the Hub view that it was loaded from"),
        "compared": Word("proven", "known by a comparison of the weights"),
        "file": Word("proven", "known by complete weights of it in the adapter"),
        "rebased": Word("proven", "put on it by rebase"),
        "combined": Word("proven", "its sources are combined over it"),
        "given": Word("stated", "known by the word of its publisher"),
        "named": Word("stated", "known by its configuration, which names the plain base model"),
        "receipt_untimed": Word("stated", "known by the receipt of its folder, whose times are unknown"),
        "compared_untimed": Word("stated", "known by a comparison of the weights, whose times are unknown"),
        "sampled": Word("stated", "known by a comparison of samples of the weights"),
        "loaded": Word("assumed", "assumed from what its publisher has loaded"),
        "cache": Word("assumed", "assumed from the cache of its publisher"),
        "assumed": Word("assumed", "assumed, since nothing shows it"),
        "unrecorded": Word("assumed", "how that is known was not recorded"),
    }
)
"""All words of this version, the strongest first. Rows keep theirs, and a word of a later version is assumed."""

_GIVEN: Final = "given"


def known_by(word: str) -> str:
    """How a parent is known, as a clause; a word of later versions as it is."""
    return PARENT_WORDS[word].clause if word in PARENT_WORDS else word


def level_of(word: str) -> Level:
    """How far a word can be relied on; one of a later version is *assumed*, since nothing is known of it."""
    return PARENT_WORDS[word].level if word in PARENT_WORDS else "assumed"


def strongest(words: Sequence[str]) -> str:
    """The word that counts most of some that say the same parent: the first in the table."""
    order = list(PARENT_WORDS)
    return min(words, key=lambda word: order.index(word) if word in PARENT_WORDS else len(order))


def words_meant(text: str) -> tuple[tuple[str, ...], bool]:
    """The words that a word or a level stands for; and whether those of later versions belong to them, as assumed.

    *assumed*, which is both, is the level.

    Raises:
        UsageError: it is neither.
    """
    if text in LEVELS:
        return tuple(word for word, each in PARENT_WORDS.items() if each.level == text), text == "assumed"
    if text in PARENT_WORDS:
        return (text,), False
    raise UsageError(
        f"{text[:64]!r} is no word for how a parent is known: expected is a level ({', '.join(LEVELS)}), or one of "
        f"{', '.join(word for word in PARENT_WORDS if word not in LEVELS)}."
    )


def in_short(word: str) -> str:
    """A word behind its level, if both fit: ``stated (given)``; once if they are the same."""
    level = level_of(word)
    return level if word == level else f"{level} ({word})"


def accepted(word: str, policy: Policy) -> bool:
    """Whether a registry accepts a parent that is known by ``word``.

    *stated* takes what is proven or stated; *proven* takes what is proven, and what a person has *given*: that is on
    record with its author, which no inference is.
    """
    if policy == "any":
        return True
    return level_of(word) == "proven" or (level_of(word) == "stated" if policy == "stated" else word == _GIVEN)


Times = Literal["older", "newer", "unknown"]
"""When the folder that an adapter was trained on was written, beside the adapter."""

EQUAL: Final = 1 - 1e-5
"""Of the elements that a path changes: with fewer that are what a usual way of merging gives, weights only fit it."""
RULE: Final = 1
"""By which a comparison is made: every element, bit for bit up to what the usual ways of merging explain."""


class Fitting(Schema):
    """A revision whose merged weights some weights are, or the base model."""

    reference: str  # PATH@N, or the base model's name
    digest: str  # of the revision, or of the base's weights
    weights: str | None = None  # of a search: the same for revisions that stand for the same function


class NearPath(Schema):
    """How far some weights are from those of a path."""

    reference: str  # PATH@N, or the base model's name
    distance: float  # relative to the norm of the path's weights, from a sample


class WeightedLink(Schema):
    """A link of a weighted sum of links that some weights look like."""

    reference: str  # PATH@N
    weight: float
    alike: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # that it may be instead


class NarrowRequest(Schema):
    """What the tensors of a folder are where some elements stand for a base model."""

    base: str = Field(min_length=1, max_length=128)
    # float64, little-endian, in the order of `registry.tensors.comparison.fingerprint`; NaN: no such element
    values: Base64
    dtypes: tuple[str | None, ...] = Field(max_length=1 << 20)  # of each tensor; None: it is missing
    link: str | None = None  # the values are what an adapter adds, whose weights have this digest; None: a model's


class PathsLeft(Schema):
    """The paths that some weights may be those of, by samples."""

    left: tuple[str, ...]  # references, nearest first; the base model's name is the path without links
    near: tuple[NearPath, ...]  # the nearest of all
    searched: int  # revisions
    sum: tuple[WeightedLink, ...] = ()  # of links, that explains the samples up to roundings: a hint, no proof


class MergedFrom(Schema):
    """A path whose merged weights a folder has."""

    reference: str  # PATH@N, or the base model's name
    links: tuple[str, ...]  # references, in the order in which they were merged
    order_shows: bool  # the bits show that order; False: it has one link, or other orders give the same
    proof: str  # how far the weights are equal, as a clause


class HashFound(Schema):
    """What a hash of a file, or of its tensors alone, names."""

    hash: str  # hex digits: the beginning of a sha256
    references: tuple[str, ...] = ()  # PATH@N, newest first, and names of base models; none: nothing here
    retracted: tuple[str, ...] = ()  # the same, of revisions that were retracted


class HashesFound(Schema):
    """What some hashes name."""

    hashes: tuple[HashFound, ...]


class NamedInPicture(Schema):
    """A model that a picture names, and what that is here."""

    kind: str  # lora, model, or what else the program calls it that wrote it
    name: str  # as it is called there, which proves nothing
    hash: str | None = None  # None: it is named without one
    references: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()
    reason: str | None = None  # why it is nothing here, as a clause


class Identified(Schema):
    """What a folder is made of, or which models a picture names, as far as this registry knows."""

    folder: str  # or the picture
    kind: Literal["model", "adapter", "picture"]
    searched: int  # revisions
    merged: tuple[MergedFrom, ...] = ()  # of a model: what it is; several: nothing tells which one
    unknown_order: tuple[str, ...] = ()  # of a model: the links, in the order that its bits show, and no path has
    nearest: str | None = None  # of a model that is none of them: the nearest path
    distance: float | None = None  # from that path, relative to its norm: what no revision explains
    tensor: str | None = None  # where that one fits least
    near: tuple[NearPath, ...] = ()
    sum: tuple[
        WeightedLink, ...
    ] = ()  # of a model that no path is: a weighted sum of links that samples look like, no proof
    retracted: tuple[str, ...] = ()  # revisions that it may be, too: a service gives no retracted ones to compare
    reason: str | None = None  # why its weights, or those that the adapter was trained on, were not compared
    trained_on: str | None = None  # of an adapter: what its configuration names
    bases: tuple[str, ...] = ()  # of an adapter: the base models that it fits
    published: tuple[str, ...] = ()  # of an adapter: the revisions that it is, by its files or by all of its numbers
    named: Annotated[tuple[NamedInPicture, ...], Field(exclude_if=lambda value: not value)] = ()  # of a picture


class FolderCompared(Schema):
    """What the weights in the folder that an adapter was trained on are: the word of who has the folder."""

    words: str = Field(max_length=4096)  # how to call the folder in a sentence
    reason: str | None = Field(default=None, max_length=4096)  # why they can't be compared
    fitting: tuple[Fitting, ...] = ()  # none: something else than all candidates
    nearest: str | None = None  # reference of the candidate that comes nearest
    distance: float = 0.0  # from that candidate, relative to its norm
    tensor: str | None = None  # where that one fits least
    newer: bool = False  # the folder was written after the adapter
    looked_at: str | None = None  # how much of it, if that is not all that was wanted
    searched: int | None = None  # how many revisions it was compared with, on all base models; None: the parent's only
    proof: str | None = Field(default=None, max_length=1024)  # of a search: how far it equals what fits, as a clause
    order: tuple[str, ...] = ()  # of a search: in which order the links were merged, if no path has it
    near: tuple[NearPath, ...] = ()  # of a search: the nearest, if nothing fits
    retracted: tuple[str, ...] = ()  # of a search: revisions that it may be too, not compared since they were retracted
    rule: int | None = None  # by which it was compared, see `RULE`; None: by that of an older client, which is none
    whole: bool = False  # every element was looked at; else samples
    equal: float | None = None  # of what fits: share of the elements that it changes, and that are equal bit for bit
    others: int = 0  # elements that it leaves alone, and that are within a rounding of the base's
    times: Times | None = None  # of its weights
    recorded: bool | None = None  # they are what was recorded when the training began; None: nothing was recorded
    covered: bool = False  # another adapter lies beside them, which loaders put on top

    def beside(self, words: str, times: Times, recorded: bool | None, *, covered: bool) -> FolderCompared:
        """The same of an adapter that was trained on it, with when it was written beside that."""
        told = {"words": words, "newer": times == "newer", "times": times, "recorded": recorded, "covered": covered}
        return self.model_copy(update=told)

    @property
    def is_equal(self) -> bool:
        """Whether something fits, and not within rounding only."""
        return bool(self.fitting) and not self.is_near

    @property
    def is_near(self) -> bool:
        """Whether what fits is within rounding only, so that it may be something else, such as an earlier step."""
        return bool(self.fitting) and self.whole and (self.others > 0 or (self.equal or 0.0) < EQUAL)

    @property
    def is_later(self) -> bool:
        """Whether the folder was written after the adapter was trained, so that it shows nothing."""
        return self.recorded is False or (self.recorded is None and (self.newer or self.times == "newer"))

    @property
    def shows_nothing(self) -> bool:
        """Whether what was trained on may have been something else than these weights."""
        return self.is_later or self.covered

    @property
    def word(self) -> str:
        """How a parent is known by it that fits; *assumed*: it is not."""
        if self.shows_nothing or self.is_near:
            return "assumed"
        if self.rule is None or not self.whole:
            return "sampled"
        return "compared" if self.recorded or self.times == "older" else "compared_untimed"

    @property
    def why_not(self) -> str | None:
        """Why it proves nothing, as a clause; None: it does."""
        if self.covered:
            return f"{self.words} holds another adapter, which loaders put on top, so it does not show the parent"
        if self.recorded is False:
            return f"{self.words} is not what it was when the training began, so it does not show the parent"
        if self.is_later:
            return f"{self.words} is newer than the adapter, so it does not show the parent"
        if not self.is_near:
            return None
        if self.others:
            return f"{self.words} fits {self.fitting[0].reference} within rounding only: {self.others} elements differ"
        share = 100 * (self.equal or 0.0)
        return f"{self.words} fits {self.fitting[0].reference} within rounding only: {share:.4g} % equal"
