"""Deleting and retracting, undoing both, and the rules by which revisions are deleted."""

from __future__ import annotations

from collections.abc import Iterable

from registry.bars import progress_sink
from registry.operations import table
from registry.operations.arguments import asked, check_undo_alone
from registry.operations.methods.calls import TableCalls
from registry.progress import Progress
from registry.schemas import Deleted, DeletedTree, Retention, RetentionRule, Retracted
from registry.schemas.requests import (
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    RetentionRequest,
    RetractRequest,
    RunRetentionRequest,
    SetRetentionRequest,
    UndeleteRequest,
    check_rule,
)


class Removal(TableCalls):
    """Deleting and retracting, and undoing both."""

    def delete(self, ref: str, *, with_tags: bool = False, dry_run: bool = False, undo: bool = False) -> Deleted:
        """Delete one revision that nothing was trained on. Its number is never reused.

        Args:
            ref: ``PATH@N``, or the revision by its digest.
            with_tags: also if tags point at it, which go with it.
            dry_run: only check, and report how much the revision was used.
            undo: restore it instead, within the grace period (a day by default).

        Raises:
            NotFoundError: the revision does not exist.
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
            undo: restore what the last deletion at the path removed, within the grace period (a day by default).

        Raises:
            NotFoundError: the adapter does not exist.
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
            NotFoundError: the base model does not exist.
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
            reason: why; whoever requests the weights sees it.
            undo: make it available again.
            dry_run: only list what would be unavailable, with how much it was used; needs no reason.

        Returns:
            The revision, everything that contains it, and the tags that point at any of them.

        Raises:
            NotFoundError: the revision does not exist.
            UsageError: the reason is missing.

        Example:
            >>> team.retract("llama/support@2", reason="was trained on the test set").descendants
            ('llama/support/french@1',)
            >>> retracted = team.retract("llama/support@2", undo=True)
        """
        return self._do(table.RETRACT, asked(RetractRequest, ref=ref, reason=reason, undo=undo, dry_run=dry_run))


class Retaining(TableCalls):
    """Rules by which revisions of an adapter are deleted."""

    def set_retention(
        self,
        path: str,
        *,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_best: Iterable[str] = (),
        keep_tagged: bool = True,
    ) -> Retention:
        """Set which revisions of an adapter are retained, in place of an earlier rule; nothing is deleted yet.

        A run deletes what no part of the rule keeps. The newest revision always stays, and so do those that were
        retracted, that have a protected tag, that others were trained on or combined of, and that are materialised. A
        service runs the rule after each publish to the adapter.

        Args:
            path: the adapter.
            keep_last: keep so many with the highest numbers.
            keep_every: keep those whose numbers can be divided by it.
            keep_best: keep those with the best values of a metric: ``"max:acc:3"``, ``"min:eval_loss:3"``.
            keep_tagged: keep those that have tags.

        Returns:
            The rule, and what a run would delete now.

        Raises:
            NotFoundError: the adapter does not exist.
            UsageError: the rule is empty, or ``keep_best`` is malformed.
            ConflictError: ``renamed``: it is an old name.

        Example:
            >>> team.set_retention("llama/support", keep_last=1, keep_best=["max:acc:3"]).revisions
            ()
        """
        best = tuple(keep_best)
        request = asked(SetRetentionRequest, locals(), keep_best=best)
        check_rule(path, keep_last, keep_every, best)
        return self._do(table.SET_RETENTION, request)

    def retention(self, path: str) -> Retention:
        """The retention rule of an adapter, and what a run would delete by it now.

        Raises:
            NotFoundError: the adapter does not exist, or it has no rule.

        Example:
            >>> team.set_retention("llama/support", keep_last=5).kept
            2
            >>> team.retention("llama/support").rule.keep_last
            5
        """
        return self._do(table.RETENTION, asked(RetentionRequest, path=path))

    def clear_retention(self, path: str) -> RetentionRule:
        """Remove the retention rule of an adapter, and return it: nothing is deleted by it from now on.

        Raises:
            NotFoundError: the adapter does not exist, or it has no rule.

        Example:
            >>> team.set_retention("llama/support", keep_every=10).rule.keep_every
            10
            >>> team.clear_retention("llama/support").keep_every
            10
        """
        return self._do(table.CLEAR_RETENTION, asked(RetentionRequest, path=path))

    def run_retention(self, path: str, *, dry_run: bool = False, progress: Progress | bool = False) -> Retention:
        """Delete the revisions of an adapter that its retention rule does not keep.

        ``delete_tree(path, undo=True)`` restores all of one run, within the grace period (a day by default), as long as
        nothing else was deleted at ``path`` since.

        Args:
            path: the adapter.
            dry_run: only list what would be deleted.
            progress: True shows a bar.

        Raises:
            NotFoundError: the adapter does not exist, or it has no rule.

        Example:
            >>> team.set_retention("llama/support/french", keep_last=3).revisions
            ()
            >>> team.run_retention("llama/support/french").done
            True
        """
        with progress_sink(progress) as sink:
            return self._do(table.RUN_RETENTION, asked(RunRetentionRequest, path=path, dry_run=dry_run), sink)
