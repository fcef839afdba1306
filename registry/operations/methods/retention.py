"""Retention: rules by which revisions of an adapter are deleted."""

from __future__ import annotations

from collections.abc import Iterable

from registry.bars.shown import shown
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.progress import Progress
from registry.schemas import Retention, RetentionRule
from registry.schemas.requests import RetentionRequest, RunRetentionRequest, SetRetentionRequest, check_rule


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
        """Set which revisions of an adapter are kept, in the place of an earlier rule; nothing is deleted yet.

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
            NotFoundError: there is no such adapter.
            UsageError: the rule is empty, or says what is best in another form.
            ConflictError: ``renamed``: it is an old name.

        Example:
            >>> team.set_retention("llama/support", keep_last=1, keep_best=["max:acc:3"]).revisions
            ()
        """
        best = tuple(keep_best)
        request = asked(
            SetRetentionRequest,
            path=path,
            keep_last=keep_last,
            keep_every=keep_every,
            keep_best=best,
            keep_tagged=keep_tagged,
        )
        check_rule(path, keep_last, keep_every, best)
        return self._do(table.SET_RETENTION, request)

    def retention(self, path: str) -> Retention:
        """The retention rule of an adapter, and what a run would delete by it now.

        Raises:
            NotFoundError: there is no such adapter, or it has no rule.

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
            NotFoundError: there is no such adapter, or it has no rule.

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
        nothing else was deleted there since.

        Args:
            path: the adapter.
            dry_run: only list what would be deleted.
            progress: True shows a bar.

        Raises:
            NotFoundError: there is no such adapter, or it has no rule.

        Example:
            >>> team.set_retention("llama/support/french", keep_last=3).revisions
            ()
            >>> team.run_retention("llama/support/french").done
            True
        """
        with shown(progress) as sink:
            return self._do(table.RUN_RETENTION, asked(RunRetentionRequest, path=path, dry_run=dry_run), sink)
