"""Analysing what links changed."""

from __future__ import annotations

from registry.bars.shown import shown
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.progress import Progress
from registry.schemas.requests import StatisticsRequest
from registry.schemas.statistics import Statistics


class Analysis(TableCalls):
    """Analysing what links changed."""

    def stats(self, ref: str, *, since: str | None = None, progress: Progress | bool = False) -> Statistics:
        """What each link of a path changed, and all of them together: norms and ranks of their deltas.

        The figures come from the factors alone; docs/statistics.md says what each means. They are kept with the
        revision once they are computed.

        Args:
            ref: a revision.
            since: an ancestor: only the links after it. None: all, from the base model on.
            progress: True shows a bar.

        Returns:
            Statistics that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Raises:
            NotFoundError: there is no such revision.
            UsageError: ``ref`` is a base model, or ``since`` is no ancestor of it.

        Example:
            >>> found = team.stats("llama/support/french")
            >>> found
            <Statistics llama..llama/support/french@1: 2 links, norm 4.33, rank 6, 95 % of the energy in rank 4>
            >>> [(link.reference, link.delta.rank, link.delta.rank95) for link in found.links]
            [('llama/support@2', 4, 4), ('llama/support/french@1', 2, 2)]
        """
        with shown(progress) as sink:
            return self._do(table.STATS, asked(StatisticsRequest, ref=ref, since=since), sink)
