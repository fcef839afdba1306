"""The parent by an adapter's configuration, if it was trained on a model from a Hub-compatible view.

PEFT records the repo id that the model was loaded by, or its folder in the Hub's cache. It records the revision only if
the trainer passed one (``LoraConfig(revision=...)``, ``get_peft_model(..., revision=...)``). A commit id of the merged
view and ``r3`` always mean the same revision. A tag does if it never moved; ``main`` never does. A model with adapters
loaded or merged into it keeps its old repo id, so an id further up the path does not show which parent it was, and does
not contradict one that is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import tagging
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.tree import commits, old_names, revisions
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.commits import MEANT
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import ConflictError, RegistryError, UsageError
from registry.reference import MAIN, Reference, number_in_view
from registry.reference import Path as TreePath
from registry.schemas.artifacts import TRAINED_ON
from registry.schemas.usage import NOTHING, Loads
from registry.services.artifacts.commits import RepoNames, is_commit

LISTED: Final = 10
"""How many possible parents a message names."""
_NEWEST: Final = (None, MAIN)
_LONGEST: Final = 4096  # characters of a name: the longest path that systems open; a repo id is shorter
# The parts have bounded lengths too, since matching may try every way to split the text.
_CACHED: Final = re.compile(
    r"(?:.*[/\\])?models--([^/\\]{1,96}?)--([^/\\]{1,96})[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?"
)

_REPO_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class TrainedOn:
    """A path by its repo id in a view, and the revision that a configuration names."""

    path: TreePath
    revision: str | None
    loaded: Loads = NOTHING  # of its revisions, by the publisher, lately
    cached: str | None = None  # the only commit of it in the publisher's cache of the Hub

    @classmethod
    def of(
        cls,
        name: str | None,
        revision: str | None,
        *,
        taken: bool = False,
        loaded: Loads = NOTHING,
        cached: str | None = None,
    ) -> TrainedOn | None:
        """Parse ``base_model_name_or_path`` and ``revision``; None: they can't be a path of a registry.

        For an adapter that was ``taken`` from a Hub only a commit counts: numbers and tags may be another registry's.
        """
        name = name or ""
        if len(name) > _LONGEST:
            return None
        if (inside := _CACHED.fullmatch(name)) is not None:
            name, revision = f"{inside[1]}/{inside[2]}", inside[3]
        if taken and revision is not None and not is_commit(revision):
            revision = None
        try:
            return cls(TreePath.of_repo_id(name), revision or None, loaded, cached)
        except UsageError:
            return None

    @property
    def words(self) -> str:
        """How messages refer to it."""
        return f"the configuration, {self.path.repo_id}{'' if self.revision is None else f' at {self.revision[:96]}'},"


@dataclass(frozen=True)
class Proof:
    """A proven parent, the reason in words, and how it is known; ``row`` None: the base model itself."""

    row: RevisionRow | None
    reason: str
    known_by: str = "view"


@dataclass(frozen=True)
class Doubt:
    """The error to raise unless something else shows the parent."""

    error: RegistryError


@dataclass(frozen=True)
class Place:
    """Where the adapter is published: its path, the parent's path, and the parent's revisions that may be pinned."""

    path: TreePath
    above: TreePath
    base: BaseRow
    candidates: Sequence[RevisionRow]  # the newest, at most `LISTED` and one

    @property
    def listed(self) -> str:
        """The newest candidates, for messages."""
        return ", ".join(row.reference for row in self.candidates[:LISTED])

    def numbered(self, session: Session, number: int) -> RevisionRow | None:
        """The candidate of a number."""
        return next(iter(revisions.pinnable(session, self.path, number=number)), None)


def candidates_for(session: Session, path: TreePath) -> tuple[RevisionRow, ...]:
    """The candidates of a `Place`; raises `NotFoundError` if no adapter exists above ``path``."""
    return revisions.pinnable(session, path, limit=LISTED + 1)


def read_view(session: Session, place: Place, told: TrainedOn) -> Proof | Doubt | None:
    """What a configuration shows about the parent; None: it does not name a path of this registry.

    Raises:
        ConflictError: ``parent_mismatch``, it names another path of this registry, which can't be the parent.
    """
    if told.path == place.above:
        return _base(place, told) if told.path.is_base else _revision(session, place, told)
    if told.path in _above(place.above):
        return Doubt(
            _mismatch(
                f"{told.words} is not {place.above}, the parent given by the path: publish under the path of what it "
                f"was trained on; or, if adapters of {place.above} were loaded or merged into that model, give the "
                f"parent with --parent {place.above}@N."
            )
        )
    named = old_names.names(session, told.path)
    if str(place.above) in named:  # what is published on was renamed since it was trained on
        return _base(place, told) if told.path.is_base else _revision(session, place, told)
    if named and revisions.is_there(session, told.path):
        raise _mismatch(
            f"{told.words} is not {place.above}, the parent given by the path; publish under the path of what it was "
            "trained on."
        )
    return None


def _mismatch(sentence: str) -> ConflictError:
    return ConflictError(sentence[:1].upper() + sentence[1:], code="parent_mismatch")


def _above(path: TreePath) -> list[TreePath]:
    return [TreePath(path.base, path.names[:count]) for count in range(len(path.names))]


def _base(place: Place, told: TrainedOn) -> Proof | Doubt:
    names = RepoNames.of(TRAINED_ON, told.path, place.base)
    if told.revision is not None and is_commit(told.revision) and told.revision[:MEANT] != names.meaning(None):
        return _unknown(place, told)
    return Proof(None, f"{told.words} says so", "named")  # a model that was merged in memory still has that name


def _revision(session: Session, place: Place, told: TrainedOn) -> Proof | Doubt | None:
    name, seen = told.revision, rights_of(session).sees(place.above)
    if name in _NEWEST and told.cached is not None:
        row = _of_commit(session, place, told.path, told.cached)  # None: the cache has it from another Hub, or view
        if row is not None:
            why = f"{told.words} says so, and this machine's cache of the Hub has no other commit of it"
            return Proof(row, why, "cache")
    if name is not None and is_commit(name):
        row = _of_commit(session, place, told.path, name)
    elif name is not None and (number := number_in_view(name)) is not None:
        row = place.numbered(session, number)
        if row is None and not seen:
            return None
    elif not seen:
        return None
    elif len(place.candidates) == 1:
        why = f"{told.words} says so, and it is the only revision of {place.above}"
        return Proof(place.candidates[0], why, "assumed")
    else:
        return _by_name(session, place, told)
    return _unknown(place, told) if row is None else Proof(row, f"{told.words} says so")


def _of_commit(session: Session, place: Place, path: TreePath, commit: str) -> RevisionRow | None:
    """The revision that a commit of a path means, even if hidden: like a whole digest, a commit can't be guessed."""
    names = RepoNames.of(TRAINED_ON, path, place.base)
    found = commits.candidates(session, TRAINED_ON, commit[:MEANT], ignore_rights=True)
    digest = names.find(commit, (digest for at, digest in found if at == path))
    if digest is None:
        return None
    return next(iter(revisions.pinnable(session, place.path, digest=digest)), None)


def _only_loaded(session: Session, place: Place, told: TrainedOn) -> Proof | None:
    """The only revision that the publisher has loaded; no proof, since its machines may have others from before.

    One that it only resolved a name to leaves doubt as well: a client that has it cached requests nothing else.
    """
    loaded = told.loaded
    if len(loaded.weights) != 1 or loaded.told:
        return None
    row = place.numbered(session, loaded.weights[0])
    why = f"{told.words} says so, and it is the only revision of {place.above} that this token has loaded lately"
    if row is not None and loaded.missed is not None:
        return Proof(row, f"{why}, as far as that could be recorded ({loaded.missed.rstrip('.')})", "assumed")
    return None if row is None else Proof(row, why, "loaded")


def _loaded_words(loaded: Loads, above: TreePath) -> str:
    """What of an adapter the publisher has loaded or may have, as part of a sentence; empty: nothing, or one."""
    if len(loaded.weights) + len(loaded.told) < 2:
        return ""
    parts = [f"has loaded {_numbers(loaded.weights, above)}"] if loaded.weights else []
    if loaded.told:
        parts.append(f"was told that its name means {_numbers(loaded.told, above)}, which a cache may have")
    return f", and this token {' and '.join(parts)}"


def _numbers(numbers: Sequence[int], above: TreePath) -> str:
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return f"{', '.join(f'{above}@{number}' for number in numbers[-LISTED:])}{more}"


def _by_name(session: Session, place: Place, told: TrainedOn) -> Proof | Doubt:
    """The revision of a tag that never moved."""
    above, name = place.above, told.revision
    if name in _NEWEST and (loaded := _only_loaded(session, place, told)) is not None:
        return loaded
    named: Sequence[str] = ()
    if name not in _NEWEST:
        named = tagging.ever_named(session, told.path, name)
    if len(named) == 1 and (reference := Reference.parse(named[0])).number is not None:
        row = place.numbered(session, reference.number)
        return _unknown(place, told) if row is None else Proof(row, f"{told.words} says so, and it never moved")
    if name in _NEWEST:
        what = f"names {above} but none of its revisions ({place.listed}){_loaded_words(told.loaded, above)}"
    elif named:
        what = f"names a tag that was moved: it has named {', '.join(named)}"
    else:
        what = f"names a tag that {above} does not have ({place.listed})"
    return Doubt(
        UsageError(
            f"{told.words[:1].upper()}{told.words[1:]} {what}; give the parent with --parent REF, and next time train "
            "with the commit or the number: get_peft_model(model, config, revision='r3').",
            code="parent_ambiguous",
        )
    )


def _unknown(place: Place, told: TrainedOn) -> Doubt:
    return Doubt(
        _mismatch(
            f"{told.words} is not a revision of {place.above} in this registry: publish to the registry it was trained "
            "from, or give the parent with --parent."
        )
    )


def names_repo(name: str | None) -> bool:
    """Whether a name in a configuration is that of a repository, and not of a folder."""
    return name is not None and len(name) <= _LONGEST and _REPO_ID.fullmatch(name) is not None


def names_source(name: str | None, source: str | None, given: Collection[str] = ()) -> bool | None:
    """Whether the name in a configuration is the repository that a base model was taken from.

    So are repo ids that an admin gave it. None: nothing can be inferred, since the name is no repo id, or none of those
    and the base was not taken from a Hub.
    """
    if name is None or len(name) > _LONGEST:
        return None
    if (cached := _CACHED.fullmatch(name)) is not None:
        name = f"{cached[1]}/{cached[2]}"
    if _REPO_ID.fullmatch(name) is None:
        return None
    if name in given:
        return True
    if source is None:
        return None
    return source.removeprefix("hf:").partition("@")[0] == name
