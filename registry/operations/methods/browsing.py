"""Browsing: trees, logs, revisions, searches, usage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.bars import progress_sink
from registry.errors import NotFoundError, UsageError
from registry.operations import table
from registry.operations.arguments import asked, check_limit
from registry.operations.methods.calls import TableCalls
from registry.progress import Progress
from registry.reference import Path
from registry.schemas import Log, Resolved, RevisionSummary, SearchResult, Shown, Tree
from registry.schemas.difference import DeltaMatrix, Difference
from registry.schemas.followed import Where, WhereRequest
from registry.schemas.requests import (
    BasesRequest,
    DiffRequest,
    PathRequest,
    ReferenceRequest,
    SearchRequest,
    TreeRequest,
)
from registry.schemas.tree import Bases
from registry.schemas.usage import Usage, UsageRequest


class Browsing(TableCalls):
    """Browsing: trees, logs, revisions, searches, usage."""

    def bases(self, *, old_names: bool = False, figures: bool = False) -> Bases:
        """All base models, by name.

        Args:
            old_names: also what was renamed, under its old name.
            figures: also how many revisions each has, how large they are, and which is the newest, in ``.figures``.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Example:
            >>> team.bases()
            (<BaseSummary llama: LlamaForCausalLM, 5.20 k parameters, 13.1 kB, 2 adapters>,)
            >>> team.bases(figures=True)[0].figures.revisions
            3
        """
        return Bases(self._list(table.BASES, asked(BasesRequest, old_names=old_names, figures=figures)))

    def tree(
        self,
        path: str | None = None,
        *,
        old_names: bool = False,
        depth: int | None = None,
        limit: int | None = None,
        after: str | None = None,
        behind: bool = False,
    ) -> Tree:
        """Adapters as a tree, each with its newest revision.

        Args:
            path: only what is at and under it. None: everything.
            old_names: also what was renamed, under its old name; if ``path`` is such a name, it is shown anyway.
            depth: only so many levels below ``path``, or below the base models; what was cut has ``more``.
            limit: at most so many adapters, and what is above the first of them. None: all.
            after: only adapters that come after this one: ``next`` of the page before.
            behind: only what is on an old revision of its parent, or below such, and what is above it; not in pages.

        Returns:
            A tree that ``print`` shows indented and a notebook shows as a table; ``.to_pandas()`` makes a data frame
            of its adapters.

        Raises:
            NotFoundError: nothing exists at ``path``.
            UsageError: ``behind`` with ``limit`` or ``after``.

        Example:
            >>> tree = team.tree("llama")
            >>> tree
            <Tree: 1 base model, 2 adapters>
            >>> print(tree)
            llama
              support@2 [prod], rank 4, acc=0.88
                french@1, rank 2, acc=0.91
            >>> team.tree(limit=1).next
            'llama/support'
        """
        if behind and (limit is not None or after is not None):
            raise UsageError("--behind needs the whole tree: leave --limit and --after out.")
        request = asked(TreeRequest, locals())
        tree = self._do(table.TREE, request)
        return tree.behind() if behind else tree

    def log(self, path: str, *, limit: int | None = None, deleted: bool = False) -> Log:
        """The revisions of an adapter, newest first.

        Args:
            path: the adapter.
            limit: at most so many. None: all.
            deleted: also what is known of its deleted revisions; with ``limit``, of those above the last one listed.

        Returns:
            A log that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Raises:
            NotFoundError: no adapter exists at ``path``.

        Example:
            >>> log = team.log("llama/support")
            >>> log
            <Log of llama/support: 2 revisions, newest @2>
            >>> max(log.revisions, key=lambda revision: revision.metrics["acc"]).reference
            'llama/support@2'
        """
        request = asked(PathRequest, path=path)
        gone = self._list(table.DELETED, request) if deleted else ()
        try:
            revisions = self._list(table.LOG, request, check_limit(limit))
        except NotFoundError:
            if not gone:
                raise
            revisions = ()  # all were deleted
        if revisions and len(revisions) == limit:
            gone = tuple(one for one in gone if one.number > revisions[-1].number)
        return Log(path=str(Path.parse(path)), revisions=revisions, deleted=gone)

    def show(self, ref: str) -> Shown:
        """Everything about a revision, or about a base model.

        Args:
            ref: ``PATH`` (its newest revision), ``PATH@3``, ``PATH@TAG``, ``PATH@sha256:...``, or a base model's name.

        Raises:
            NotFoundError: the revision does not exist.

        Example:
            >>> shown = team.show("llama/support@prod")
            >>> shown.revision.number, shown.revision.metrics
            (2, {'acc': 0.88})
            >>> [(target.name, target.ranks) for target in shown.targets]
            [('q_proj', (4,)), ('v_proj', (4,))]
        """
        return self._do(table.SHOW, asked(ReferenceRequest, ref=ref))

    def diff(self, a: str, b: str, *, deltas: bool = False, progress: Progress | bool = False) -> Difference:
        """What differs between two revisions, of one adapter or of two.

        Configuration, target modules, metrics, annotations, message, tags, files and lineage. With ``deltas`` also
        whether what they learned agrees: cosines, energy ratios, principal angles and what one undoes of the other, of
        each module, from the factors alone. docs/statistics.md says what each means.

        Args:
            a: a revision.
            b: the revision that it is compared with.
            deltas: compare the deltas too: what each is since the last revision that both have; of a revision and
                one of its ancestors, what the ancestor is since the base model, and what followed it.
            progress: True shows a bar, of deltas.

        Returns:
            Differences that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of, a row each.

        Raises:
            NotFoundError: the revision does not exist.
            UsageError: deltas of revisions on different base models.

        Example:
            >>> found = team.diff("llama/support@1", "llama/support@2")
            >>> found.a.reference, found.b.reference
            ('llama/support@1', 'llama/support@2')
            >>> team.diff("llama/support@2", "llama/support/french", deltas=True).deltas
            <Deltas llama..llama/support@2 and llama/support@2..llama/support/french@1: cosine 0.0023, energy ratio 1>
        """
        with progress_sink(progress) as sink:
            return self._do(table.DIFF, asked(DiffRequest, a=a, b=b, deltas=deltas), sink)

    def diff_children(self, path: str, *, progress: Progress | bool = False) -> DeltaMatrix:
        """How the newest revisions of a path's children agree, all with all: cosines and energy ratios of their links.

        Children that the token does not see are left out.

        Args:
            path: an adapter or a base model.
            progress: True shows a bar.

        Returns:
            A matrix that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of, a row a pair.

        Raises:
            NotFoundError: nothing exists at the path.
            UsageError: it has more than 64 children that the token sees.

        Example:
            >>> team.diff_children("llama/support")
            <DeltaMatrix of llama/support: 1 child, nothing to compare>
        """
        with progress_sink(progress) as sink:
            return self._do(table.DIFF_CHILDREN, asked(PathRequest, path=path), sink)

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference resolves to now, and its lineage, root first.

        Raises:
            NotFoundError: the revision does not exist.

        Example:
            >>> resolved = team.resolve("llama/support/french")
            >>> [entry.reference for entry in resolved.lineage]
            ['llama', 'llama/support@2', 'llama/support/french@1']
        """
        return self._do(table.RESOLVE, asked(ReferenceRequest, ref=ref))

    def where(self, names: Sequence[str]) -> tuple[Where, ...]:
        """Which revisions many names point at now, in one request.

        Args:
            names: references, and patterns ``BASE/*@TAG``, in which ``*`` stands for any text of a path, also over
                several names; at most 1,000, which may stand for at most 1,000.

        Returns:
            One answer for each reference and each match of a pattern, in this order, none twice. What can't be served
            has no ``reference``, but the ``code`` and the sentence of its error: ``retracted`` (itself, or what it
            contains), ``not_found`` (also of a pattern that nothing matches), ``not_allowed`` (outside of the token's
            scopes, whether it exists or not), ``bad_name`` or ``usage``.

        Raises:
            UsageError: there are no names, or too many.

        Example:
            >>> [(one.name, one.reference) for one in team.where(["llama/*@prod", "llama/support/french@1"])]
            [('llama/support@prod', 'llama/support@2'), ('llama/support/french@1', 'llama/support/french@1')]
        """
        return self._do(table.WHERE, asked(WhereRequest, names=tuple(names)))

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        path: str | None = None,
        depth: int | None = None,
        tag: str | None = None,
        author: str | None = None,
        parent_known_by: str | None = None,
        rank: str | None = None,
        metric: str | None = None,
        stat: str | None = None,
        target: str | None = None,
        since: str | None = None,
        behind: bool = False,
        retracted: bool = False,
        sort: str | None = None,
        all_revisions: bool = False,
        old_names: bool = False,
        limit: int | None = None,
    ) -> SearchResult:
        """Revisions that meet every given condition, by path.

        Words are found in any order and place: in names, tags, authors, messages, names of metrics, annotations and
        edited cards. Where nothing has all of them, names, tags and authors that are one edit away count too.

        Args:
            text: words, "exact phrases", and filters as the options of the command: ``"sweep run tag:prod acc>0.8"``,
                also ``behind``, ``retracted``, ``assumed``, ``since:30d``. Words of one or two letters have to be a
                whole name or tag.
            base: the base model.
            path: only what is at and under it.
            depth: only so many levels below ``path``, or below the base models.
            tag: a tag that points at the revision.
            author: the name it was published under.
            parent_known_by: how its parent is known: ``"proven"``, ``"stated"``, ``"assumed"``, or an exact word as in
                ``RevisionSummary.parent_known_by``.
            rank: a condition on its largest rank, such as ``"<=16"``.
            metric: a condition on a metric, such as ``"acc>0.8"``.
            stat: conditions on statistics of the revision's own delta, such as ``"rank95<8,stable_rank>2"``. What
                has no statistics yet is not found; `stats` computes them.
            target: the name of a target module, such as ``"q_proj"``.
            since: only what was published since then: ``"30d"``, ``"12h"`` before now, or ``"2026-11-01"``, of UTC.
            behind: only what has an ancestor with a newer revision.
            retracted: only what is retracted, or contains what is.
            sort: ``"max:acc"``, ``"min:eval_loss"`` or ``"min:stat:rank95"``: only revisions with this metric or
                statistic, best first.
            all_revisions: also the older revisions of each adapter, instead of its newest only.
            old_names: also what was renamed, under its old name.
            limit: at most so many.

        Returns:
            The revisions, and in ``.notices`` what was not looked at, and what could not be found for lack of a
            statistic or metric.

        Raises:
            UsageError: a condition is malformed, or a statistic is unknown.
            NotFoundError: the base model, or what ``path`` names, does not exist.

        Example:
            >>> team.search(metric="acc>0.8", sort="max:acc")
            <SearchResult: 2 revisions, llama/support/french@1, llama/support@2>
        """
        request = asked(SearchRequest, locals())
        found = self._part(table.SEARCH, request, check_limit(limit))
        return SearchResult(revisions=found.items, notices=(*found.notices, *self._left_out(request, found.items)))

    def _left_out(self, request: SearchRequest, found: Sequence[RevisionSummary]) -> Iterator[str]:
        """What a search does not find because it lacks what is compared or sorted by."""
        by = (request.sort or "").partition(":")[2]
        of_statistics = by.startswith("stat:")
        if by and not found and (rest := self._list(table.SEARCH, request.model_copy(update={"sort": None}), 1)):
            one = rest[0].reference
            if of_statistics:
                name = by.removeprefix("stat:")
                yield f"No revision that matches has {name} yet; `registry stats {one}` computes it of one."
            else:
                yield f"No revision that matches has the metric {by}; `registry show {one}` shows which one has."
        elif of_statistics or request.stat is not None:
            yield "What has no statistics yet is not found; `registry stats REF` computes and keeps them."

    def du(self, path: str | None = None) -> Usage:
        """How much storage adapters and revisions use, in bytes.

        Args:
            path: only what is at and under it. None: everything.

        Returns:
            Sums, and what each adapter and revision takes, of which ``.to_pandas()`` makes a data frame.

        Raises:
            NotFoundError: nothing exists at ``path``.

        Example:
            >>> used = team.du("llama/support")
            >>> used.size < used.full_checkpoints
            True
        """
        return self._do(table.DU, asked(UsageRequest, path=path))
