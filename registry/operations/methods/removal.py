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
        """Delete one revision (``PATH@N``, or by its digest) that nothing was trained on.

        ``with_tags``: also one that tags name, and them with it. ``dry_run`` only checks that, and tells how much the
        revision was used. ``undo`` gives it back, within the grace period. Its number is never given again.
        """
        if undo:
            check_undo_alone(with_tags=with_tags, dry_run=dry_run)
            return self._do(table.UNDELETE, asked(UndeleteRequest, ref=ref))
        return self._do(table.DELETE, asked(DeleteRequest, ref=ref, with_tags=with_tags, dry_run=dry_run))

    def delete_tree(
        self, path: str, *, with_tags: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete an adapter and everything under it; ``dry_run`` only lists that, with how much it was used.

        ``undo`` restores what the last deletion there removed, within the grace period.
        """
        if undo:
            check_undo_alone(with_tags=with_tags, dry_run=dry_run)
            return self._do(table.UNDELETE_TREE, asked(UndeleteRequest, ref=path))
        return self._do(table.DELETE_TREE, asked(DeleteTreeRequest, path=path, with_tags=with_tags, dry_run=dry_run))

    def delete_base(
        self, name: str, *, recursive: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete a base model, ``recursive`` with its adapters; ``dry_run`` only lists them and what else names it.

        ``undo`` restores what was deleted together, within the grace period.
        """
        if undo:
            check_undo_alone(recursive=recursive, dry_run=dry_run)
            return self._do(table.UNDELETE_BASE, asked(UndeleteRequest, ref=name))
        return self._do(table.DELETE_BASE, asked(DeleteBaseRequest, name=name, recursive=recursive, dry_run=dry_run))

    def retract(self, ref: str, *, reason: str = "", undo: bool = False, dry_run: bool = False) -> Retracted:
        """Make a revision and everything that contains it unavailable, or ``undo`` that; the history stays readable.

        ``dry_run`` only lists what would be unavailable, with how much it was used, and needs no reason.
        """
        return self._do(table.RETRACT, asked(RetractRequest, ref=ref, reason=reason, undo=undo, dry_run=dry_run))
