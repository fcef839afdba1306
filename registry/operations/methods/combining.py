"""Combining: weighted sums of revisions, published as revisions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from registry.bars.shown import shown
from registry.errors import UsageError
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.operations.publication import Labels
from registry.progress import Progress
from registry.schemas.publishing import Combined, CombineRequest, Replayed, ReplayRequest
from registry.schemas.transfer import MOST_SOURCES


class Combining(TableCalls):
    """Weighted sums of revisions."""

    def combine(
        self,
        sources: Mapping[str, float] | Iterable[tuple[str, float]],
        path: str,
        *,
        over: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        message: str = "",
        tags: Iterable[str] = (),
        dry_run: bool = False,
        progress: Progress | bool = False,
    ) -> Combined:
        """Publish the weighted sum of the deltas of some revisions over their lowest common ancestor.

        The new revision is an ordinary adapter in float32, exactly the sum: the factors of all sources side by side. It
        keeps what it is made of: a source that is retracted takes it down, and can't be deleted while it is there.

        Args:
            sources: references and their weights.
            path: of the new revision, directly under the common ancestor.
            over: a revision above the lowest common ancestor, or the base model, to take the deltas over.
            rank: truncate to this rank at most in every module.
            max_error: truncate as far as this relative error over all modules allows.
            message: a description of the new revision. Empty: says what was combined.
            tags: tags to point at it.
            dry_run: only report what it would be, and how the sources agree.
            progress: True shows a bar.

        Returns:
            What was combined over what, the energy ratio of the sources, and the new revision.

        Raises:
            NotFoundError: there is no such revision.
            RetractedError: a source, or what it was trained on, was retracted.
            UsageError: a weight is not finite or all are 0, a source is given twice or is the ancestor itself, or
                ``over`` is not above all of them.
            ConflictError: ``parent_mismatch``: the path does not lie directly under the common ancestor.
            InvalidAdapterError: ``not_combinable``: a DoRA, replaced values that disagree, or several base models.
            AccuracyError: ``rank`` can't reach ``max_error``.

        Example:
            >>> found = team.combine({"llama/support/french": 1.0}, "llama/support/mixed", dry_run=True)
            >>> found
            <Combined llama/support/mixed: not done, 1 llama/support/french@1 over llama/support@2, energy ratio 1>
            >>> team.combine({"llama/support/french": 0.5}, "llama/support/mixed").revision.sources[0].weight
            0.5
        """
        pairs = sources.items() if isinstance(sources, Mapping) else sources
        try:
            weighed = [{"ref": ref, "weight": _number(ref, weight)} for ref, weight in pairs]
        except (TypeError, ValueError):
            raise UsageError("The sources are references and their weights: {REF: WEIGHT} is expected.") from None
        if len(weighed) > MOST_SOURCES:  # before `asked`, whose sentence would list them all
            raise UsageError(f"{len(weighed)} sources are given: a combination has at most {MOST_SOURCES}.")
        labels = Labels.checked(message, {}, tags, {})
        request = asked(
            CombineRequest,
            sources=tuple(weighed),
            path=path,
            over=over,
            rank=rank,
            max_error=max_error,
            message=labels.message,
            tags=labels.tags,
            dry_run=dry_run,
        )
        with shown(progress) as sink:
            return self._do(table.COMBINE, request, sink)

    def replay(self, ref: str, *, progress: Progress | bool = False) -> Replayed:
        """Combine the sources of every combination in a path again, and compare with what is stored.

        Args:
            ref: the revision at the end of the path.
            progress: True shows a bar.

        Raises:
            NotFoundError: there is no such revision.
            RetractedError: it, a source, or one that it was trained on, was retracted.
            UsageError: it is a base model.

        Example:
            >>> mixed = team.combine({"llama/support/french": 0.5}, "llama/support/mixed")
            >>> [(one.reference, one.state) for one in team.replay("llama/support/mixed").combinations]
            [('llama/support/mixed@1', 'same')]
        """
        with shown(progress) as sink:
            return self._do(table.REPLAY, asked(ReplayRequest, ref=ref), sink)


def _number(ref: str, weight: float) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UsageError(f"The weight of {ref} is {weight!r}: a number is expected.")
    try:
        given = float(weight)
    except OverflowError:  # an integer beyond all floats
        given = math.inf
    if not math.isfinite(given):
        raise UsageError(f"The weight of {ref} is {given}: a finite number is expected.")
    return given
