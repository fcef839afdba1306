"""Publishing what of a training run waits, when the training is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from registry.errors import NotFoundError, RegistryError, UnavailableError
from registry.operations.registry import Registry
from registry.schemas import RevisionSummary
from registry.training.outbox import FOLDER, Outbox
from registry.training.sending import send


def publish_waiting(
    team: Registry,
    output: Path,
    *,
    parent: str | None = None,
    refused: Callable[[Path, RegistryError], None],
) -> tuple[RevisionSummary, ...]:
    """Publish all that waits in the output folder of a trainer; what is refused goes on waiting.

    Args:
        team: the registry.
        output: the trainer's ``output_dir``.
        parent: the revision that it was trained on, if nothing that waits tells it.
        refused: is called with the folder of each that is not published, and why.

    Raises:
        NotFoundError: no `RegistryCallback` has worked there.
        UnavailableError: the registry is away; what was published before stays published.
    """
    outbox = Outbox(output)
    if not outbox.root.is_dir():
        raise NotFoundError(
            f"{output} has no folder {FOLDER}: the output folder of a training with a RegistryCallback is expected."
        )
    revisions = []
    for place in outbox.waiting():
        try:
            one = outbox.read(place)
            if parent is not None:
                one = replace(one, document=one.document.model_copy(update={"parent": parent}))
            revisions.append(send(team, outbox, one))
        except UnavailableError:
            raise
        except RegistryError as problem:
            refused(place, problem)
    return tuple(revisions)
