"""What can change about a revision: its tags, metrics, annotations and message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.reference import check_tag
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.schemas.cards import Card, SetCardRequest
from registry.schemas.requests import (
    AnnotateRequest,
    ProtectRequest,
    ReferenceRequest,
    TagRequest,
    UndoTagRequest,
    UntagRequest,
)
from registry.schemas.texts import check_annotations, check_metrics


class Labels(TableCalls):
    """What can change about a revision: its tags, metrics, annotations and message."""

    def tag(self, ref: str, tag: str, *, expected: str | None = None, undo: bool = False) -> Tagged:
        """Point ``tag`` at the revision, moving it if it pointed at another.

        ``expected``: only if it points at this revision now (``@3``; ``none``: only if there is no such tag). ``undo``:
        ``ref`` is the path of the adapter, and the tag gets back what it pointed at before its last change; once more
        undoes that.
        """
        _check_order(tag)
        if undo:
            return self._do(table.UNDO_TAG, asked(UndoTagRequest, path=ref, tag=tag, expected=expected))
        return self._do(table.TAG, asked(TagRequest, ref=ref, tag=tag, expected=expected))

    def untag(self, path: str, tag: str) -> Tagged:
        """Remove a tag."""
        _check_order(tag)
        return self._do(table.UNTAG, asked(UntagRequest, path=path, tag=tag))

    def annotate(
        self,
        ref: str,
        *,
        metrics: Mapping[str, float] = {},
        annotations: Mapping[str, str] = {},
        message: str | None = None,
        unset: Iterable[str] = (),
    ) -> RevisionSummary:
        """Add or replace metrics and annotations of a revision, and its message; ``unset`` removes some by name."""
        request = asked(
            AnnotateRequest,
            ref=ref,
            metrics=check_metrics(metrics),
            annotations=check_annotations(annotations),
            message=message,
            unset=tuple(unset),
        )
        return self._do(table.ANNOTATE, request)

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        """Let only admins move the tags that match a pattern; returns all protected patterns of this base model."""
        return self._do(table.PROTECT_TAG, asked(ProtectRequest, base=base, pattern=pattern, remove=remove))

    def card(self, ref: str) -> Card:
        """The card of an adapter: the text that was edited or, without one, the README.md that was published last.

        With a number, a tag or a digest: the README.md of that revision. Where there is none, the text is empty.
        """
        return self._do(table.CARD, asked(ReferenceRequest, ref=ref))

    def set_card(self, path: str, text: str | None, *, expected: str | None = None) -> Card:
        """Edit the card of an adapter; None: the published README.md is its card again.

        With ``expected``, the digest of the card that was read, a change by somebody else in the meantime is not
        overwritten (`ConflictError`, ``card_changed``).
        """
        return self._do(table.SET_CARD, asked(SetCardRequest, path=path, text=text, expected=expected))


def _check_order(tag: str) -> None:
    """Refuse a path in the place of a tag, before the tag in its place is looked for as a path."""
    if "/" in tag:
        check_tag(tag)
