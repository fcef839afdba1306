"""Deleting and retracting, and undoing both."""

from __future__ import annotations

from registry.operations import table
from registry.operations.arguments import asked, check_undo_alone
from registry.operations.methods.table_calls import TableCalls
from registry.schemas import Deleted, DeletedTree, Retracted
from registry.schemas.requests import (
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    RetractRequest,
    UndeleteRequest,
)


class Removal(TableCalls):
    """Deleting and retracting, and undoing both."""

    def delete(self, ref: str, *, with_tags: bool = False, dry_run: bool = False, undo: bool = False) -> Deleted:
        """Delete one revision that nothing was trained on. Its number is never reused.

        Args:
            ref: ``PATH@N``, or the revision by its digest.
            with_tags: also if tags point at it, which go with it.
            dry_run: only check, and tell how much the revision was used.
            undo: restore it instead, within the grace period (a day by default).

        Raises:
            NotFoundError: there is no such revision.
            ConflictError: ``has_children``: revisions were trained on it. ``tagged``: tags point at it.

        Example:
            >>> team.delete("llama/support/french@1").reference
            'llama/support/french@1'
            >>> team.delete("llama/support/french@1", undo=True).undone
            True
        """
        if undo:
            check_undo_alone(with_tags=with_tags, dry_run=dry_run)
            return self._do(table.UNDELETE, asked(UndeleteRequest, ref=ref))
        return self._do(table.DELETE, asked(DeleteRequest, ref=ref, with_tags=with_tags, dry_run=dry_run))

    def delete_tree(
        self, path: str, *, with_tags: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete an adapter and everything under it.

        Args:
            path: the adapter.
            with_tags: also if tags point at revisions of it, which go with them.
            dry_run: only list what would be deleted.
            undo: restore what the last deletion there removed, within the grace period (a day by default).

        Raises:
            NotFoundError: there is no such adapter.
            ConflictError: ``tagged``: tags point at revisions of it.

        Example:
            >>> team.delete_tree("llama/support", with_tags=True, dry_run=True).revisions
            ('llama/support@1', 'llama/support@2', 'llama/support/french@1')
        """
        if undo:
            check_undo_alone(with_tags=with_tags, dry_run=dry_run)
            return self._do(table.UNDELETE_TREE, asked(UndeleteRequest, ref=path))
        return self._do(table.DELETE_TREE, asked(DeleteTreeRequest, path=path, with_tags=with_tags, dry_run=dry_run))

    def delete_base(
        self, name: str, *, recursive: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete a base model.

        Args:
            name: the base model.
            recursive: with all its adapters; without it, a base model that has some is refused.
            dry_run: only list what would be deleted, and what else names it.
            undo: restore what was deleted together, within the grace period (a day by default).

        Raises:
            NotFoundError: there is no such base model.
            ConflictError: ``has_children``: it has adapters.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> gone = team.delete_base("llama", recursive=True)
            >>> len(gone.revisions)
            3
            >>> len(team.delete_base("llama", undo=True).revisions)
            3
        """
        if undo:
            check_undo_alone(recursive=recursive, dry_run=dry_run)
            return self._do(table.UNDELETE_BASE, asked(UndeleteRequest, ref=name))
        return self._do(table.DELETE_BASE, asked(DeleteBaseRequest, name=name, recursive=recursive, dry_run=dry_run))

    def retract(self, ref: str, *, reason: str = "", undo: bool = False, dry_run: bool = False) -> Retracted:
        """Make a revision and everything that contains it unavailable; the history stays readable.

        Args:
            ref: the revision.
            reason: why, which whoever asks for the weights is told.
            undo: make it available again.
            dry_run: only list what would be unavailable, with how much it was used; needs no reason.

        Returns:
            The revision, everything that contains it, and the tags that point at any of them.

        Raises:
            NotFoundError: there is no such revision.
            UsageError: there is no reason.

        Example:
            >>> team.retract("llama/support@2", reason="was trained on the test set").descendants
            ('llama/support/french@1',)
            >>> retracted = team.retract("llama/support@2", undo=True)
        """
        return self._do(table.RETRACT, asked(RetractRequest, ref=ref, reason=reason, undo=undo, dry_run=dry_run))
