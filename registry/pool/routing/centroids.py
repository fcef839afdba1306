"""Routing to the nearest centroid: every adapter keeps one of its examples' embeddings, as an annotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from registry.errors import NotFoundError, UsageError
from registry.operations.registry import Registry
from registry.pool.routing.route import Rows, Unclear, check_unclear, count_rows, unclear_row
from registry.pool.routing.vectors import centroid, directions, from_text, to_text
from registry.schemas import RevisionSummary

KEY: Final = "centroid"


class Centroids:
    """Routes each row to the revision whose centroid its embedding is nearest to, by the cosine.

    The candidates are read at each call: the newest revision of each adapter at and under a path, or the one with a
    tag, if it has a centroid and is not retracted. So a retraction, and a centroid that was written, hold from the next
    call on.

    Args:
        registry: an open registry.
        path: where in the tree to look.
        embed: gives the embeddings of examples, ``(rows, numbers)``: a tensor, an array or lists. It gets what is
            routed as it is: the list of texts, or the encoded batch.
        key: the annotation. Name the embedding in it, as in ``centroid:minilm``: only centroids of one embedding can be
            compared.
        tag: candidates are the revisions with this tag, instead of the newest.
        depth: only so many levels below the path.
        minimum: the least cosine that is near enough.
        margin: by how much the nearest has to be nearer than the next one. Less is a tie.
        unclear: what becomes of a row with a tie, or with nothing near enough: ``"base"``, or ``"error"``.

    Raises:
        UsageError: an option is malformed.

    Example:
        >>> embed = lambda texts: [[text.count("e"), text.count("o")] for text in texts]
        >>> router = Centroids(team, "llama/support", embed, key="centroid:letters")
        >>> _ = router.write("llama/support@2", ["of wood", "out of order"])
        >>> _ = router.write("llama/support/french@1", ["cette page"])
        >>> router.route(["no room", "here we were"])
        ['llama/support@2', 'llama/support/french@1']
    """

    def __init__(
        self,
        registry: Registry,
        path: str,
        embed: Callable[[Any], Any],
        *,
        key: str = KEY,
        tag: str | None = None,
        depth: int | None = None,
        minimum: float = -1.0,
        margin: float = 0.001,
        unclear: Unclear = "base",
    ) -> None:
        check_unclear(unclear)
        self._registry = registry
        self._path = path
        self._embed = embed
        self._key = key
        self._tag = tag
        self._depth = depth
        self._minimum = minimum
        self._margin = margin
        self._unclear: Unclear = unclear

    def route(self, rows: Rows) -> list[str | None]:
        """The reference of the nearest centroid, for each row; None: the base model.

        Raises:
            NotFoundError: there is nothing at the path, or no candidate has a centroid.
            UsageError: a centroid can't be read or is of another embedding, the embedding gave something else than a
                row for each example; with ``unclear="error"`` a row that is not clear.
        """
        count = count_rows(rows)
        references, centroids = self._candidates()
        if not count:
            return []
        found = directions(self._embed(rows), count)
        if found.shape[1] != centroids.shape[1]:
            raise UsageError(
                f"The embedding gives {found.shape[1]} numbers, and the centroids {self._key!r} have "
                f"{centroids.shape[1]}: they are of another one."
            )
        return [self._nearest(row, one, references) for row, one in enumerate(found @ centroids.T)]

    def write(self, ref: str, examples: Sequence[Any]) -> RevisionSummary:
        """Keep the centroid of examples' embeddings as the annotation of a revision, in the place of the one before.

        Args:
            ref: the revision.
            examples: what it should be asked about.

        Raises:
            NotFoundError, NotAllowedError: as `registry.Registry.annotate`.
            UsageError: the embeddings are not finite, cancel each other out, or have too many numbers.
        """
        mean = centroid(directions(self._embed(examples), count_rows(examples)))
        return self._registry.annotate(ref, annotations={self._key: to_text(mean)})

    def _candidates(self) -> tuple[list[str], torch.Tensor]:
        # the text narrows it to what names the annotation somewhere, which is less to read
        found = self._registry.search(self._key, path=self._path, depth=self._depth, tag=self._tag).revisions
        usable = [one for one in found if one.retracted is None and self._key in one.annotations]
        if not usable:
            raise NotFoundError(f"Nothing at or under {self._path} has a centroid {self._key!r}; write some.")
        read = [self._read(one) for one in usable]
        for revision, direction in zip(usable, read, strict=True):
            if len(direction) != len(read[0]):
                raise UsageError(
                    f"The centroid {self._key!r} of {revision.reference} has {len(direction)} numbers, and that of "
                    f"{usable[0].reference} has {len(read[0])}: they are of two embeddings."
                )
        return [one.reference for one in usable], torch.stack(read)

    def _read(self, revision: RevisionSummary) -> torch.Tensor:
        try:
            return from_text(revision.annotations[self._key])
        except ValueError as wrong:
            raise UsageError(
                f"The annotation {self._key!r} of {revision.reference} is no centroid: {wrong}. Write it again."
            ) from None

    def _nearest(self, row: int, cosines: torch.Tensor, references: list[str]) -> str | None:
        best, places = cosines.topk(min(2, len(references)))
        nearest, cosine = references[int(places[0])], float(best[0])
        if cosine < self._minimum:
            unclear_row(self._unclear, row, f"the nearest is {nearest}, at a cosine of {cosine:.3f}")
            return None
        if len(best) == 2 and cosine - float(best[1]) < self._margin:
            other = references[int(places[1])]
            unclear_row(self._unclear, row, f"{nearest} and {other} are as near, at a cosine of {cosine:.3f}")
            return None
        return nearest
