"""Analysing what links changed."""

from __future__ import annotations

from registry.bars.shown import shown
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.progress import Progress
from registry.schemas.artifacts import EngineCheck
from registry.schemas.form import Dtype, EngineName
from registry.schemas.requests import CheckRequest, StatisticsRequest
from registry.schemas.statistics import Statistics


class Analysis(TableCalls):
    """Analysing what links changed."""

    def stats(
        self, ref: str, *, since: str | None = None, fidelity: Dtype | None = None, progress: Progress | bool = False
    ) -> Statistics:
        """What each link of a path changed, and all of them together: norms and ranks of their deltas.

        The figures come from the factors alone; docs/statistics.md says what each means. They are kept with the
        revision once they are computed.

        Args:
            ref: a revision.
            since: an ancestor: only the links after it. None: all, from the base model on.
            fidelity: also estimate how much of each change would survive a merge in this dtype, from a sample of the
                base model's rows: no model is made. The answer's ``fidelity`` has it, with 99 % intervals.
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
            >>> team.stats("llama/support/french", fidelity="bf16").fidelity.surviving_share.low > 0.9
            True
        """
        with shown(progress) as sink:
            return self._do(table.STATS, asked(StatisticsRequest, ref=ref, since=since, fidelity=fidelity), sink)

    def check(
        self, ref: str, *, engine: EngineName, max_lora_rank: int | None = None, since: str | None = None
    ) -> EngineCheck:
        """Whether an engine loads the composed adapter of a revision, or every reason why not.

        Judged by the rules of the engine's version that the answer names, from headers and configurations alone:
        `registry/engines/rules.py` has them with their sources.

        Args:
            ref: a revision.
            engine: ``"vllm"``, ``"sglang"``, ``"peft"`` or ``"transformers"``.
            max_lora_rank: the largest rank that the engine is started with. None: its default, 16 for vLLM.
            since: an ancestor: only the links after it, as for `artifact`.

        Raises:
            NotFoundError: there is no such revision.
            RetractedError: it, or one that it was trained on, was retracted.
            UsageError: ``ref`` is a base model, or the engine can't be started with such a rank.

        Example:
            >>> found = team.check("llama/support/french", engine="vllm", max_lora_rank=1)
            >>> found.loads, found.rank, [reason.code for reason in found.reasons]
            (False, 6, ['rank'])
            >>> found.would_do
            'registry fetch llama/support/french@1 --for vllm --max-lora-rank 8'
        """
        request = asked(CheckRequest, ref=ref, engine=engine, max_lora_rank=max_lora_rank, since=since)
        return self._do(table.CHECK, request)
