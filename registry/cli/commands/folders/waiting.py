"""The output of ``publish --resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.cli.render.screen import GONE, REFERENCE, Span

if TYPE_CHECKING:
    from registry.cli.session import Session
    from registry.errors import RegistryError


def publish_rest(run: Session, folder: str, parent: str | None) -> None:
    """Publish what waits of a training run.

    Raises:
        RegistryError: of the first that is refused, after all were tried.
    """
    from registry.training.resuming import publish_waiting

    problems: list[RegistryError] = []

    def refused(place: Path, problem: RegistryError) -> None:
        problems.append(problem)
        run.say(f"not published: {place}: {problem}", GONE)

    revisions = publish_waiting(run.registry, Path(folder), parent=parent, refused=refused)
    run.answer(revisions, lambda _width: [(Span(one.reference, REFERENCE),) for one in revisions])
    if problems:
        raise problems[0]
    if not revisions:
        run.say(f"Nothing waits in {folder}.")
