"""Analysing what links changed."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any, Protocol

from registry.bars import progress_sink
from registry.operations import table
from registry.operations.arguments import asked, dtype_name
from registry.operations.methods.calls import TableCalls
from registry.progress import Progress
from registry.schemas.artifacts import EngineCheck
from registry.schemas.form import BaseQuantization, Dtype, EngineName
from registry.schemas.requests import CheckRequest, DenseStatisticsRequest, StatisticsRequest
from registry.schemas.statistics import DenseStatistics, Statistics


class WeightChanges(Protocol):
    """What some links of a path changed, with their files open."""

    def factors(self, module: str, expert: int | None) -> tuple[Any, Any]:
        """The factors of a module's change."""

    def delta(self, module: str, expert: int | None) -> Any:
        """A module's change."""

    def close(self) -> None:
        """Close the files."""


class Analysis(TableCalls):
    """Analysing what links changed."""

    @abstractmethod
    def _changes(self, ref: str, since: str | None) -> AbstractContextManager[WeightChanges]:
        """What the links after an ancestor changed."""

    def stats(
        self, ref: str, *, since: str | None = None, fidelity: Dtype | None = None, progress: Progress | bool = False
    ) -> Statistics:
        """What each link of a path changed, and all of them together: norms and ranks of their deltas.

        The figures come from the factors alone; docs/statistics.md says what each means. They are stored with the
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
            NotFoundError: the revision does not exist.
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
        with progress_sink(progress) as sink:
            return self._do(
                table.STATS, asked(StatisticsRequest, ref=ref, since=since, fidelity=dtype_name(fidelity)), sink
            )

    def dense_stats(self, ref: str, *, since: str | None = None, progress: Progress | bool = False) -> DenseStatistics:
        """What a path changed of the base model's weights, which are read for it: also DoRA and what is replaced.

        The figures of `stats` for the whole change of each weight, the factors by which DoRA rescales rows, and
        intruder dimensions (arXiv:2410.21228); docs/statistics.md says what each means. It takes hours if weights
        are large, which a service does as a job. It is stored with the revision, unless ``since`` is given.

        Args:
            ref: a revision.
            since: an ancestor: only the links after it. None: all, from the base model on.
            progress: True shows a bar.

        Returns:
            Statistics that ``.to_pandas()`` makes a data frame of, a row for each weight.

        Raises:
            NotFoundError: the revision does not exist.
            NotAllowedError: the token is no writer's.
            UsageError: ``ref`` is a base model, or ``since`` is no ancestor of it.
            InvalidAdapterError: ``zero_norm``: DoRA divides by the norm of a row of zeros.

        Example:
            >>> found = team.dense_stats("llama/support/french")
            >>> found
            <DenseStatistics llama..llama/support/french@1: 4 matrices, norm 4.33, rank 6, ... intruder dimensions>
            >>> found.matrices[0].module, len(found.matrices[0].cosines)
            ('model.layers.0.self_attn.q_proj', 10)
        """
        with progress_sink(progress) as sink:
            return self._do(table.DENSE_STATS, asked(DenseStatisticsRequest, ref=ref, since=since), sink)

    def factors(self, ref: str, module: str, *, expert: int | None = None, since: str | None = None) -> tuple[Any, Any]:
        """The change of a module as two factors in float64: ``B @ A`` is what the path added to its weight.

        All links of the path together, whose ranks add up; of one link alone, say with ``since`` what it was trained
        on. Computed on this machine from the bytes of the adapters; no weight of the base model is read.

        Args:
            ref: a revision.
            module: as `stats` names it: of experts the parameter, of a bias that is added the bias.
            expert: the number of the expert, if the module has a matrix for each.
            since: an ancestor: only the links after it. None: all, from the base model on.

        Returns:
            A of shape (rank, in_features), and B of shape (out_features, rank) with the scaling of each link in it.
            Convolutions are matrices of out by in x kernel; of an embedding, in_features is the vocabulary.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, or one that it was trained on, was retracted.
            UsageError: nothing changes the module, or ``since`` is no ancestor; or the change is no product of
                factors, since it was rescaled (DoRA) or values were replaced: `delta` gives it.
            UnavailableError: ``missing_package``: torch is not installed here.

        Example:
            >>> a, b = team.factors("llama/support/french", "model.layers.0.self_attn.q_proj")
            >>> a.shape, b.shape, a.dtype
            (torch.Size([6, 16]), torch.Size([16, 6]), torch.float64)
            >>> own, _ = team.factors("llama/support/french", "model.layers.0.self_attn.q_proj", since="llama/support")
            >>> own.shape
            torch.Size([2, 16])
        """
        with self._changes(ref, since) as found:
            return found.factors(module, expert)

    def delta(self, ref: str, module: str, *, expert: int | None = None, since: str | None = None) -> Any:
        """The dense change of a module's weight in float64, whatever the path does to it.

        Where links only add products, it is ``B @ A`` of `factors`. Otherwise it is the weight after the links minus
        the weight before them, which reads the base model's weight: over HTTP the file that has it, from a folder of
        this machine that is known to have it (``fetch --base-dir``), or else from the service.

        Args:
            ref: a revision.
            module: as for `factors`; also modules and parameters whose values are replaced.
            expert: likewise.
            since: likewise.

        Returns:
            A tensor (out_features, in_features); of a convolution, in the shape of its weight.

        Raises:
            NotFoundError, RetractedError, UnavailableError: as `factors`.
            UsageError: nothing changes the module, the base model lacks it, or ``since`` is no ancestor.

        Example:
            >>> change = team.delta("llama/support/french", "model.layers.0.self_attn.q_proj")
            >>> change.shape
            torch.Size([16, 16])
        """
        with self._changes(ref, since) as found:
            return found.delta(module, expert)

    def check(
        self,
        ref: str,
        *,
        engine: EngineName,
        max_lora_rank: int | None = None,
        since: str | None = None,
        base_quantization: BaseQuantization | None = None,
    ) -> EngineCheck:
        """Whether an engine loads the composed adapter of a revision, or every reason why not.

        Judged by the rules of the engine's version that the answer names, from headers and configurations alone:
        `registry/engines/rules.py` has them with their sources.

        Args:
            ref: a revision.
            engine: ``"vllm"``, ``"sglang"``, ``"peft"`` or ``"transformers"``.
            max_lora_rank: the largest rank that the engine is started with. None: its default, 16 for vLLM.
            since: an ancestor: only the links after it, as for `artifact`.
            base_quantization: how the base model is quantised that the engine serves the adapter on: ``"fp8"``,
                ``"mxfp4"`` or ``"bitsandbytes"``. What to know of it is in ``notes``. None: it is not quantised.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, or one that it was trained on, was retracted.
            UsageError: ``ref`` is a base model, or the engine can't be started with such a rank.

        Example:
            >>> found = team.check("llama/support/french", engine="vllm", max_lora_rank=1)
            >>> found.loads, found.rank, [reason.code for reason in found.reasons]
            (False, 6, ['rank'])
            >>> found.would_do
            'registry fetch llama/support/french@1 --for vllm --max-lora-rank 8'
        """
        request = asked(CheckRequest, locals())
        return self._do(table.CHECK, request)
