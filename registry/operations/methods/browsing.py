"""Looking at what is there: trees, logs, revisions, searches, events."""

from __future__ import annotations

from datetime import datetime, timedelta

from registry.errors import NotFoundError
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.operations.start_times import start_of
from registry.reference import Path
from registry.schemas import BaseSummary, Event, Log, Resolved, SearchResult, Shown, Tree
from registry.schemas.difference import Difference
from registry.schemas.requests import (
    BasesRequest,
    DiffRequest,
    EventsRequest,
    PathRequest,
    ReferenceRequest,
    SearchRequest,
    TreeRequest,
)
from registry.schemas.usage import Usage, UsageRequest


class Browsing(TableCalls):
    """Looking at what is there: trees, logs, revisions, searches, events."""

    def bases(self, *, old_names: bool = False) -> tuple[BaseSummary, ...]:
        """All base models, by name; ``old_names``: also what was renamed, under its old name."""
        return self._list(table.BASES, asked(BasesRequest, old_names=old_names))

    def tree(self, path: str | None = None, *, old_names: bool = False) -> Tree:
        """Adapters as a tree: everything, or what is at and under ``path``.

        ``old_names``: also what was renamed, under its old name; if ``path`` is such a name, it is shown anyway.
        """
        return self._do(table.TREE, asked(TreeRequest, path=path, old_names=old_names))

    def log(self, path: str, *, deleted: bool = False) -> Log:
        """All revisions of an adapter, newest first; with ``deleted``, also what is known of its deleted ones."""
        request = asked(PathRequest, path=path)
        gone = self._list(table.DELETED, request) if deleted else ()
        try:
            revisions = self._list(table.LOG, request)
        except NotFoundError:
            if not gone:
                raise
            revisions = ()  # all were deleted
        return Log(path=str(Path.parse(path)), revisions=revisions, deleted=gone)

    def show(self, ref: str) -> Shown:
        """Everything about a revision."""
        return self._do(table.SHOW, asked(ReferenceRequest, ref=ref))

    def diff(self, a: str, b: str) -> Difference:
        """What differs between two revisions, of one adapter or of two: ``diff("llama/support@2", "llama/support@3")``.

        Configuration, target modules, metrics, annotations, message, tags, files and lineage; weights are not compared.
        """
        return self._do(table.DIFF, asked(DiffRequest, a=a, b=b))

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference resolves to now."""
        return self._do(table.RESOLVE, asked(ReferenceRequest, ref=ref))

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        tag: str | None = None,
        rank: str | None = None,
        metric: str | None = None,
        target: str | None = None,
        sort: str | None = None,
        all_revisions: bool = False,
        old_names: bool = False,
        limit: int | None = None,
    ) -> SearchResult:
        """Revisions that meet every given condition: of each adapter the newest, or ``all_revisions``; by path.

        ``text`` is part of the path, message or an annotation, ``rank`` ``<=16``, ``metric`` ``acc>0.8``, ``target``
        the name of a target module, ``sort`` ``max:acc`` or ``min:eval_loss``: only revisions with it, best first;
        ``old_names`` finds what was renamed under its old name, too.
        """
        request = asked(
            SearchRequest,
            text=text,
            base=base,
            tag=tag,
            rank=rank,
            metric=metric,
            target=target,
            sort=sort,
            all_revisions=all_revisions,
            old_names=old_names,
        )
        return SearchResult(revisions=self._list(table.SEARCH, request, limit))

    def events(
        self,
        path: str | None = None,
        *,
        after: str | datetime | timedelta | None = None,
        actor: str | None = None,
        kind: str | None = None,
        limit: int | None = 100,
    ) -> tuple[Event, ...]:
        """Changes made to the registry that meet every given condition, newest first; at most ``limit`` (None: all).

        ``path``: at and under it. ``after``: since then, ``24h`` or ``7d`` ago, or a date or a time (in UTC unless it
        has a zone). ``actor``: the name of who did it. ``kind``: the action, such as ``publish`` or ``tag``.
        """
        since = None if after is None else start_of(after)
        return self._list(table.EVENTS, asked(EventsRequest, path=path, after=since, actor=actor, kind=kind), limit)

    def du(self, path: str | None = None) -> Usage:
        """How much storage adapters and revisions use: all, or those at and under ``path``."""
        return self._do(table.DU, asked(UsageRequest, path=path))
