"""What can change about a revision: its tags, metrics, annotations and message; and other names of adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from registry.operations import table
from registry.operations.arguments import asked, check_limit, start_of
from registry.operations.methods.calls import TableCalls
from registry.reference import check_tag
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.schemas.form import check_annotations, check_metrics
from registry.schemas.labels import (
    AlsoKnownAs,
    AlsoKnownAsRequest,
    Card,
    RenameBaseRequest,
    Renamed,
    RenameRequest,
    SetCardRequest,
)
from registry.schemas.requests import (
    AnnotateRequest,
    ProtectRequest,
    ReferenceRequest,
    TagRequest,
    UndoTagRequest,
    UntagRequest,
)
from registry.schemas.tags import Tags, TagsRequest


class Naming(TableCalls):
    """Other names for adapters and base models; the old names go on."""

    def rename(self, path: str, name: str) -> Renamed:
        """Give an adapter and everything under it another last name.

        The parent stays, because it is what the adapter was trained on. Numbers, digests, metrics, annotations and
        unprotected tags are the same under the new name. The old one still names what it named, and names the new one
        to whoever uses it; nothing can be published to it, and lists leave it out.

        Args:
            path: the adapter.
            name: its new last name.

        Raises:
            NotFoundError: the adapter does not exist.
            ConflictError: the new name is taken.
            UsageError: ``name`` is outside the grammar, or another parent.

        Example:
            >>> team.rename("llama/support", "help").renamed_to
            'llama/help'
            >>> team.resolve("llama/help/french").reference
            'llama/help/french@1'
        """
        return self._do(table.RENAME, asked(RenameRequest, path=path, name=name))

    def rename_base(self, name: str, new: str) -> Renamed:
        """Give a base model and all its adapters another name, as `rename` does.

        Args:
            name: the base model.
            new: its new name.

        Raises:
            NotFoundError: the base model does not exist.
            ConflictError: the new name is taken.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.rename_base("llama", "llama-1b").renamed_to
            'llama-1b'
        """
        return self._do(table.RENAME_BASE, asked(RenameBaseRequest, name=name, new=new))

    def also_known_as(self, name: str, repo_id: str, *, remove: bool = False) -> AlsoKnownAs:
        """Let a base model answer under another repo id in the Hub views, as it does under the repo it was taken from.

        An adapter that names the id as what it was trained on counts as trained on the base model.

        Args:
            name: the base model.
            repo_id: ``ORG/NAME``, as on a Hub; its first part is no base model.
            remove: take the id away instead.

        Returns:
            All repo ids of the base model that are not its path's.

        Raises:
            NotFoundError: the base model does not exist, or ``remove`` and it does not have the id.
            ConflictError: the id is another's.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.also_known_as("llama", "unsloth/Llama-3.2-1B").repo_ids
            ('unsloth/Llama-3.2-1B',)
        """
        return self._do(table.ALSO_KNOWN_AS, asked(AlsoKnownAsRequest, name=name, repo_id=repo_id, remove=remove))


class Labels(TableCalls):
    """What can change about a revision: its tags, metrics, annotations and message."""

    def tags(
        self,
        path: str | None = None,
        *,
        tag: str | None = None,
        actor: str | None = None,
        after: str | datetime | timedelta | None = None,
        outdated: bool = False,
        sort: str | None = None,
        old_names: bool = False,
        limit: int | None = None,
    ) -> Tags:
        """Tags with what they name, since when and by whom, and what they named before with its metrics.

        Args:
            path: only those of adapters at and under it. None: all.
            tag: only those of this name, or that match a pattern as in file names: ``"release-*"``.
            actor: only those that were last set under this name.
            after: only those that were last set since then: ``"24h"`` or ``"7d"`` ago, or a date or a time (in UTC
                unless it has a zone).
            outdated: only those whose adapter has a newer revision.
            sort: ``"newest"`` or ``"oldest"``: by when they were set; ``"max:acc"`` or ``"min:eval_loss"``: by a
                metric, if the revision has it; ``"min:change:acc"``: by its difference to what the tag named
                before. None: by path and name.
            old_names: also of what was renamed, under its old name.
            limit: at most so many. None: all.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Raises:
            NotFoundError: nothing exists at ``path``.
            UsageError: the order is malformed.

        Example:
            >>> [(one.path, one.tag, one.reference, one.is_outdated) for one in team.tags("llama")]
            [('llama/support', 'prod', 'llama/support@2', False)]
            >>> team.tag("llama/support@1", "prod").previous
            'llama/support@2'
            >>> [(one.previous, one.newest, one.changes) for one in team.tags(outdated=True)]
            [('llama/support@2', 'llama/support@2', {'acc': ...})]
        """
        request = asked(TagsRequest, locals(), after=None if after is None else start_of(after))
        return Tags(self._list(table.TAGS, request, check_limit(limit)))

    def tag(self, ref: str, tag: str, *, expected: str | None = None, undo: bool = False) -> Tagged:
        """Point a tag at a revision, moving it if it pointed at another.

        Args:
            ref: the revision; with ``undo`` the path of the adapter.
            tag: its name: lower-case letters, digits, ``.``, ``_`` and ``-``.
            expected: only if the tag points at this revision now: ``"@3"``, or ``"none"`` if the tag does not exist.
            undo: give the tag back what it pointed at before its last change; once more undoes that.

        Raises:
            NotFoundError: the revision does not exist.
            ConflictError: ``tag_moved``: the tag does not point at ``expected``.
            NotAllowedError: the token may not write there, or the tag is protected and the caller is no admin.

        Example:
            >>> team.tag("llama/support@1", "stable")
            Tagged(path='llama/support', tag='stable', reference='llama/support@1')
        """
        _check_order(tag)
        if undo:
            return self._do(table.UNDO_TAG, asked(UndoTagRequest, path=ref, tag=tag, expected=expected))
        return self._do(table.TAG, asked(TagRequest, ref=ref, tag=tag, expected=expected))

    def untag(self, path: str, tag: str, *, expected: str | None = None) -> Tagged:
        """Remove a tag; the revision stays.

        Args:
            path: the adapter.
            tag: its name.
            expected: only if the tag points at this revision now: ``"@3"``.

        Raises:
            NotFoundError: the adapter has no such tag.
            ConflictError: ``tag_moved``: the tag does not point at ``expected``.
            NotAllowedError: the token may not write there, or the tag is protected and the caller is no admin.

        Example:
            >>> team.untag("llama/support", "prod")
            Tagged(path='llama/support', tag='prod', previous='llama/support@2')
        """
        _check_order(tag)
        return self._do(table.UNTAG, asked(UntagRequest, path=path, tag=tag, expected=expected))

    def annotate(
        self,
        ref: str,
        *,
        metrics: Mapping[str, float] = {},
        annotations: Mapping[str, str] = {},
        message: str | None = None,
        unset: Iterable[str] = (),
    ) -> RevisionSummary:
        """Add or replace metrics and annotations of a revision, and its message.

        Args:
            ref: the revision.
            metrics: numbers by name.
            annotations: texts by key.
            message: replaces the message. None: it stays.
            unset: names of metrics and annotations to remove.

        Raises:
            NotFoundError: the revision does not exist, or nothing of a name in ``unset``.
            UsageError: a metric is not finite, or a name is outside the grammar.

        Example:
            >>> revision = team.annotate("llama/support@2", metrics={"f1": 0.84}, annotations={"data": "tickets"})
            >>> revision.metrics
            {'acc': 0.88, 'f1': 0.84}
        """
        request = asked(
            AnnotateRequest,
            locals(),
            metrics=check_metrics(metrics),
            annotations=check_annotations(annotations),
            unset=tuple(unset),
        )
        return self._do(table.ANNOTATE, request)

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        """Let only admins move the tags that match a pattern.

        Args:
            base: the base model whose adapters it is about.
            pattern: as in file names: ``"prod"``, ``"release-*"``.
            remove: end the protection instead.

        Returns:
            All patterns of this base model that are protected now.

        Raises:
            NotFoundError: the base model does not exist, or ``remove`` and the pattern is not protected.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.protect_tag("llama", "release-*")
            (ProtectedTag(base='llama', pattern='release-*'),)
        """
        return self._do(table.PROTECT_TAG, asked(ProtectRequest, base=base, pattern=pattern, remove=remove))

    def card(self, ref: str) -> Card:
        """The card of an adapter: the text that was edited or, without one, the README.md that was published last.

        With a number, a tag or a digest: the README.md of that revision. If it has none, the text is empty.

        Raises:
            NotFoundError: the adapter or revision does not exist.

        Example:
            >>> team.card("llama/support").text
            ''
        """
        return self._do(table.CARD, asked(ReferenceRequest, ref=ref))

    def set_card(self, path: str, text: str | None, *, expected: str | None = None) -> Card:
        """Edit the card of an adapter; None: the published README.md is its card again.

        With ``expected``, the digest of the card that was read, a change by somebody else in the meantime is not
        overwritten.

        Raises:
            NotFoundError: the adapter does not exist.
            ConflictError: ``card_changed``: the card is another one by now.

        Example:
            >>> team.set_card("llama/support", "Answers tickets.").text
            'Answers tickets.'
        """
        return self._do(table.SET_CARD, asked(SetCardRequest, path=path, text=text, expected=expected))


def _check_order(tag: str) -> None:
    """Refuse a path given as a tag, before the tag given as a path is looked for."""
    if "/" in tag:
        check_tag(tag)
