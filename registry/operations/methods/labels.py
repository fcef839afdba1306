"""What can change about a revision: its tags, metrics, annotations and message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.reference import check_tag
from registry.schemas import ProtectedTag, RevisionSummary, Tagged
from registry.schemas.requests import AnnotateRequest, ProtectRequest, TagRequest, UntagRequest
from registry.schemas.texts import check_annotations, check_metrics


class Labels(TableCalls):
    """What can change about a revision: its tags, metrics, annotations and message."""

    def tag(self, ref: str, tag: str) -> Tagged:
        """Point a tag at a revision, moving it if it pointed at another.

        Args:
            ref: the revision.
            tag: its name: lower-case letters, digits, ``.``, ``_`` and ``-``.

        Raises:
            NotFoundError: there is no such revision.
            NotAllowedError: the token may not write there, or the tag is protected and the caller is no admin.

        Example:
            >>> team.tag("llama/support@1", "stable")
            Tagged(path='llama/support', tag='stable', reference='llama/support@1')
        """
        _check_order(tag)
        return self._do(table.TAG, asked(TagRequest, ref=ref, tag=tag))

    def untag(self, path: str, tag: str) -> Tagged:
        """Remove a tag; the revision stays.

        Raises:
            NotFoundError: the adapter has no such tag.
            NotAllowedError: the token may not write there, or the tag is protected and the caller is no admin.

        Example:
            >>> team.untag("llama/support", "prod")
            Tagged(path='llama/support', tag='prod', previous='llama/support@2')
        """
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
        """Add or replace metrics and annotations of a revision, and its message.

        Args:
            ref: the revision.
            metrics: numbers by name.
            annotations: texts by key.
            message: replaces the message. None: it stays.
            unset: names of metrics and annotations to remove.

        Raises:
            NotFoundError: there is no such revision, or nothing of a name in ``unset``.
            UsageError: a metric is not finite, or a name is outside the grammar.

        Example:
            >>> revision = team.annotate("llama/support@2", metrics={"f1": 0.84}, annotations={"data": "tickets"})
            >>> revision.metrics
            {'acc': 0.88, 'f1': 0.84}
        """
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
        """Let only admins move the tags that match a pattern.

        Args:
            base: the base model whose adapters it is about.
            pattern: as in file names: ``"prod"``, ``"release-*"``.
            remove: end the protection instead.

        Returns:
            All patterns of this base model that are protected now.

        Raises:
            NotFoundError: there is no such base model, or ``remove`` and the pattern is not protected.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.protect_tag("llama", "release-*")
            (ProtectedTag(base='llama', pattern='release-*'),)
        """
        return self._do(table.PROTECT_TAG, asked(ProtectRequest, base=base, pattern=pattern, remove=remove))


def _check_order(tag: str) -> None:
    """Refuse a path in the place of a tag, before the tag in its place is looked for as a path."""
    if "/" in tag:
        check_tag(tag)
