"""Copying a path or a subtree, with its lineage, from one registry into another.

Only what the target lacks is sent: a revision that it has by digest is left alone, and of a new one only the bytes that
it requests are sent. So copying is idempotent and resumes where it was interrupted. The target's own decisions stay: a
tag that names another revision in the target is reported and not moved, and a card that was edited at the target is not
replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from registry.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    RetractedError,
    UsageError,
)
from registry.folders.quantised import sign_in
from registry.folders.scan import OF_PICKLE, PICKLED_WEIGHTS, READ_PICKLE, form_of
from registry.operations.transfer import Transfer, sent_and_committed
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import BaseSummary, Copied, CopiedRevision, LeftOut, Log, Retracted, RevisionSummary, Tagged
from registry.schemas.transfer import (
    BaseCommit,
    BaseEntry,
    BaseRequest,
    Bundle,
    LinkEntry,
    Origin,
    PublishCommit,
    PublishRequest,
    SourceClaim,
    Truncated,
)
from registry.schemas.tree import CombinedOf
from registry.transfer.copied_blobs import CardSource, CardTarget, SourceBlobs, claims_of, copy_card, named
from registry.transfer.index import said_in
from registry.transfer.model_files import is_document


class Source(Transfer, CardSource, Protocol):
    """A registry to copy from."""

    def log(self, path: str) -> Log:
        """See `registry.operations.registry.Registry`."""


@runtime_checkable
class Target(Transfer, CardTarget, Protocol):
    """A registry to copy into."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """See `registry.operations.registry.Registry`; likewise for the other methods."""

    def log(self, path: str) -> Log: ...

    def tag(self, ref: str, tag: str) -> Tagged: ...

    def retract(self, ref: str, *, reason: str = "", undo: bool = False) -> Retracted: ...


def copy(source: Source, ref: str, target: object, *, recursive: bool, progress: Progress) -> Copied:
    """Copy what ``ref`` names with its lineage; ``recursive``: every revision at and under the path ``ref``.

    Raises:
        UsageError: source and target are the same, or ``ref`` names a revision where a path is expected.
        NotFoundError, RetractedError: nothing exists under this name, or it is retracted.
        ConflictError: ``other_weights``: the target's base model of this name has other weights.
        NotAllowedError: the target's token may not write to the path, or part of the lineage is hidden from the
            source's.
        IntegrityError: a digest came out differently at the target, or stored bytes are damaged.
    """
    if not isinstance(target, Target):
        raise TypeError(f"a {type(target).__name__} is no registry to copy into")
    if source.url == target.url:
        raise UsageError(f"{source.url} is both the source and the target; give another registry with --to.")
    chosen = _choose(source, ref, recursive=recursive)
    blobs = SourceBlobs(source, chosen.base.reference, progress)
    base_created = _copy_base(source, target, chosen.base.base, blobs, progress)
    work = _Revisions(source, target, chosen, blobs)
    progress.begin(f"Copying {ref}", sum(blob.size for link in chosen.links for blob in link.files))
    for link in chosen.links:
        work.copy(link)
    work.copy_cards()
    work.retract()
    return Copied(
        source=source.url,
        target=target.url,
        base=chosen.base.base.summary.name,
        base_created=base_created,
        revisions=tuple(work.copied),
        bytes_copied=blobs.moved,
        notices=tuple(work.notices),
    )


@dataclass(frozen=True)
class _Chosen:
    """What is copied: links with parents first and numbers ascending, so that a new adapter gets the same numbers.

    All references are the source's.
    """

    base: Bundle
    links: tuple[LinkEntry, ...]
    parents: Mapping[str, str]  # by link; for the first ones the base model's name
    through: Mapping[str, str]  # by link: the reference that its blobs are opened through
    asked: frozenset[str]  # what was requested; the other links are their ancestors
    refused: tuple[str, ...]  # requested, but retracted or with a retracted ancestor
    recursive: bool


def _choose(source: Source, ref: str, *, recursive: bool) -> _Chosen:
    reference = Reference.parse(ref)
    if recursive and reference != Reference(reference.path):
        raise UsageError(f"{ref} names one revision, but -r copies all revisions at and under a path: give a path.")
    wanted = source.subtree(ref) if recursive else (ref,)
    links: dict[str, LinkEntry] = {}
    parents: dict[str, str] = {}
    through: dict[str, str] = {}
    asked: set[str] = set(wanted)
    refused: list[str] = []
    bundle = None
    waiting = list(wanted)
    while waiting:
        one = waiting.pop()  # children first: their bundles contain most of the others
        if one in links:
            continue
        try:
            bundle = source.bundle(one)
        except RetractedError:
            if not recursive:
                raise
            refused.append(one)
            continue
        if one in wanted:
            asked.add(bundle.reference)
        above = bundle.base.summary.name
        for link in bundle.links:
            links[link.reference], parents[link.reference] = link, above
            through[link.reference] = bundle.reference
            above = link.reference
            if recursive:  # what combinations are made of is taken along
                waiting += [of.reference for of in link.sources if of.reference is not None]
    ordered = _in_order(links, parents)
    base = bundle if bundle is not None else source.bundle(reference.path.base)
    return _Chosen(
        base, tuple(ordered), parents, through, frozenset(asked), tuple(sorted(refused, key=_place)), recursive
    )


def _in_order(links: Mapping[str, LinkEntry], parents: Mapping[str, str]) -> list[LinkEntry]:
    """Parents and sources first, else by path and number."""
    found: dict[str, LinkEntry] = {}

    def put(reference: str) -> None:
        if reference not in links or reference in found:
            return
        put(parents[reference])
        for of in links[reference].sources:
            if of.reference is not None:
                put(of.reference)
        found[reference] = links[reference]

    for reference in sorted(links, key=_place):
        put(reference)
    return list(found.values())


def _place(reference: str) -> tuple[int, Path, int]:
    parsed = Reference.parse(reference)
    return len(parsed.path.names), parsed.path, parsed.number or 0


def _copy_base(source: Source, target: Target, base: BaseEntry, blobs: SourceBlobs, progress: Progress) -> bool:
    """Copy the base model; False: the target has the same weights under this name already."""
    summary = base.summary
    there = next((one for one in target.bases() if one.name == summary.name), None)
    if there is not None:
        if there.digest != summary.digest:
            raise ConflictError(
                f"Base model {summary.name} has the weights {there.digest} in {target.url}, but {summary.digest} in "
                f"{source.url}: nothing was copied. Copy into a registry without another {summary.name}.",
                code="other_weights",
            )
        return False
    weights = [blob for blob in base.files if blob.path.endswith(".safetensors")]
    request = BaseRequest(
        name=summary.name,
        files=claims_of(base.files),
        documents={blob.path: blobs.read(blob) for blob in base.files if is_document(blob.path)},
        headers={blob.path: blobs.read_header(blob) for blob in weights},
        small=_said(base, blobs),
        table=blobs.read_document(base.table),
        origin=source.url,
        source=summary.source,
        derived_from=summary.derived_from,
    )
    plan = target.plan_base(request)
    missing = named(base.files, plan.missing)
    progress.begin(f"Copying the base model {summary.name}", sum(blob.size for blob in missing))
    added = sent_and_committed(
        lambda: {blob.digest: blobs.move(blob, target) for blob in missing},
        lambda sent: target.commit_base(BaseCommit(request=request, uploads=dict(sent)), progress=progress),
    )
    if (added.base.digest, added.base.table_digest) != (summary.digest, summary.table_digest):
        raise IntegrityError(
            f"Base model {summary.name} has other digests in {target.url}: weights {added.base.digest} and table "
            f"{added.base.table_digest} instead of {summary.digest} and {summary.table_digest}.",
            code="wrong_base",
        )
    return added.created


def _said(base: BaseEntry, blobs: SourceBlobs) -> dict[str, bytes]:
    """The values that control how a quantised base model is decoded."""
    files = {blob.path: blob for blob in base.files}
    said = said_in(blobs.read_document(base.index))
    return {name: blobs.read(files[path], start, stop) for name, (path, start, stop) in said.items()}


def _truncated_in(manifest: str) -> Truncated | None:
    """What a combination was truncated to, by its manifest."""
    given = json.loads(manifest).get("truncated")
    return None if given is None else Truncated.model_validate(given)


@dataclass
class _Revisions:
    """The state of copying revisions: their references at the target, and the results so far."""

    source: Source
    target: Target
    chosen: _Chosen
    blobs: SourceBlobs
    copied: list[CopiedRevision] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)  # the source's reference -> the target's
    _there: dict[str, dict[str, RevisionSummary]] = field(default_factory=dict)  # path -> digest -> revision
    _left: set[str] = field(default_factory=set)  # the source's references of revisions that were not copied
    _retracted: dict[str, str] = field(default_factory=dict)  # the target's reference -> the source's reason

    def copy(self, link: LinkEntry) -> None:
        """Copy one revision, if the target lacks it, and its tags; note its retraction."""
        path = str(Reference.parse(link.reference).path)
        found = self._at_target(path).get(link.digest)
        created = found is None
        if found is None:
            found = self._publish_if_possible(path, link)
            if found is None:
                self.blobs.skip(link.files)
                return
            self._there[path][link.digest] = found
        else:
            self.blobs.skip(link.files)
        self._names[link.reference] = found.reference
        self.copied.append(CopiedRevision(source=link.reference, reference=found.reference, created=created))
        if link.summary is not None:
            self._tag(path, link.summary, found.reference)
            self._note_retraction(link.summary, found)

    def _at_target(self, path: str) -> dict[str, RevisionSummary]:
        if path not in self._there:
            try:
                self._there[path] = {one.digest: one for one in self.target.log(path).revisions}
            except NotFoundError:
                self._there[path] = {}
        return self._there[path]

    def _publish_if_possible(self, path: str, link: LinkEntry) -> RevisionSummary | None:
        """Publish at the target; None: the target has retracted an ancestor of the revision, or see `_publish`."""
        needed = {self.chosen.parents[link.reference], *(of.reference for of in link.sources)}
        if not needed.isdisjoint(self._left):
            self._left.add(link.reference)
            return None
        try:
            return self._publish(path, link)
        except RetractedError as error:
            if not self.chosen.recursive:
                raise
            self._left.add(link.reference)
            self.notices.append(f"{link.reference} and everything trained on it was not copied: {error}")
            return None

    def _publish(self, path: str, link: LinkEntry) -> RevisionSummary | None:
        """Publish at the target; None: the target's token may not write this ancestor, which has to exist already."""
        if link.summary is None:
            raise NotAllowedError(
                f"{link.reference} belongs to the lineage, but this token may not see its author and date, and "
                f"{self.target.url} does not have it: copy with a token for {path}, or copy that adapter first."
            )
        request = self._request(path, link, link.summary)
        try:
            plan = self.target.plan_publish(request)
        except NotAllowedError:
            if link.reference in self.chosen.asked:
                raise
            self._names[link.reference] = f"{path}@{link.digest}"
            return None
        missing = named(link.files, plan.missing)
        published = sent_and_committed(
            lambda: {blob.digest: self.blobs.move(blob, self.target) for blob in missing},
            lambda sent: self.target.commit_publish(PublishCommit(request=request, uploads=dict(sent))),
        ).revision
        if published.digest != link.digest:
            raise IntegrityError(
                f"{link.reference} has the digest {published.digest} in {self.target.url}, but {link.digest} is "
                "expected."
            )
        theirs = (
            f"{self.target.url} records {published.author} as the author of these copies: only copies made with an "
            "admin's token keep author and date; those of the originals are recorded beside them."
        )
        if published.author != link.summary.author and theirs not in self.notices:
            self.notices.append(theirs)
        moved = {blob.digest for blob in missing}
        self.blobs.skip(blob for blob in link.files if blob.digest not in moved)
        return published

    def _request(self, path: str, link: LinkEntry, summary: RevisionSummary) -> PublishRequest:
        above = self.chosen.parents[link.reference]
        self.blobs.through = self.chosen.through[link.reference]
        files = {blob.path: blob for blob in link.files}
        form = form_of(files)
        return PublishRequest(
            path=path,
            parent=self._names.get(above, above),
            message=summary.message,
            metrics=summary.metrics,
            annotations=summary.annotations,
            config=self.blobs.read(files[form.config]),
            header=self.blobs.read_header(files[form.weights]),
            files=claims_of(link.files),
            left_out=(LeftOut(path=PICKLED_WEIGHTS, reason=READ_PICKLE),) if OF_PICKLE in summary.notices else (),
            origin=Origin(
                registry=self.source.url,
                reference=link.reference,
                author=summary.author,
                created_at=summary.created_at,
                digest=link.digest,
                parent_known_by=summary.parent_known_by,
            ),
            source=summary.source,
            derived_from=summary.derived_from,
            quantised=sign_in(summary.notices),
            trained_quantised=json.loads(link.manifest).get("trained_quantised"),
            extracted=json.loads(link.manifest).get("extracted"),
            sources=tuple(self._claim(link, of) for of in link.sources),
            truncated=_truncated_in(link.manifest) if link.sources else None,
        )

    def _claim(self, link: LinkEntry, of: CombinedOf) -> SourceClaim:
        if of.reference is None:
            raise NotAllowedError(
                f"{link.reference} is combined of a revision that this token may not see, so that it can't be copied: "
                "copy with a token that sees all of its sources."
            )
        return SourceClaim(ref=f"{Reference.parse(of.reference).path}@{of.digest}", weight=of.weight)

    def _tag(self, path: str, summary: RevisionSummary, reference: str) -> None:
        for tag in summary.tags:
            holder = next((one.reference for one in self._there[path].values() if tag in one.tags), None)
            if holder == reference:
                continue
            if holder is not None:
                self.notices.append(
                    f"The tag {path}@{tag} points at {holder} in {self.target.url} and was not moved; `registry tag "
                    f"{reference} {tag}` moves it."
                )
                continue
            try:
                self.target.tag(reference, tag)
            except NotAllowedError as error:
                if error.code != "protected_tag":
                    raise
                self.notices.append(f"{reference} was copied without its tag {tag}: {error}")

    def copy_cards(self) -> None:
        """Copy the edited cards of the requested adapters."""
        paths = {str(Reference.parse(one.source).path) for one in self.copied if one.source in self.chosen.asked}
        for path in sorted(paths):
            notice = copy_card(self.source, self.target, path, self.target.url)
            if notice is not None:
                self.notices.append(notice)

    def _note_retraction(self, summary: RevisionSummary, found: RevisionSummary) -> None:
        """Schedule a retraction; it comes last, since nothing can be published on a retracted revision."""
        retracted, there = summary.retracted, found.retracted
        if retracted is None or retracted.reference != summary.reference:
            return
        if there is None or there.reference != found.reference:
            self._retracted[found.reference] = retracted.reason

    def retract(self) -> None:
        """Retract at the target what the source has retracted, and add notices about what was not copied."""
        for ref in self.chosen.refused:
            path = str(Reference.parse(ref).path)
            summary = next(one for one in self.source.log(path).revisions if one.reference == ref)
            found = self._at_target(path).get(summary.digest)
            if found is not None:
                self._note_retraction(summary, found)
            elif summary.retracted is not None:
                own = summary.retracted.reference == ref
                what = "is retracted" if own else f"contains {summary.retracted.reference}, which is retracted"
                self.notices.append(f"{ref} {what} ({summary.retracted.reason}): it was not copied.")
        for reference, reason in self._retracted.items():
            self.target.retract(reference, reason=reason)
            self.notices.append(f"{reference} is retracted in {self.source.url}, and now in {self.target.url} too.")
