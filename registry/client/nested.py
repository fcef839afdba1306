"""Plans and publishes one folder of a nested one over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.client.arithmetic import MakeArithmetic, needed
from registry.client.http.transport import Transport
from registry.client.parents import ParentFolders
from registry.client.publish import plan_publish, publish_folder
from registry.errors import NotFoundError
from registry.folders.scan import EXACT
from registry.progress import Progress
from registry.schemas import FolderCompared, Published, PublishPreview, Resolved
from registry.schemas.publishing import FullSize
from registry.transfer.requests import PublishFolder, preview
from registry.transfer.trained_on import UNTIMED, TrainedFolder


@dataclass(frozen=True)
class RemoteGround:
    """A service, and what this machine can check itself."""

    transport: Transport
    arithmetic: MakeArithmetic | None
    folders: ParentFolders

    def plan(self, folder: PublishFolder, progress: Progress) -> PublishPreview:
        # The weights of a parent that is only planned can't be read anywhere.
        request, trained_on = folder.request, folder.adapter.trained_on
        planned = request.nested and trained_on is not None and not self._is_there(request.parent)
        if not planned:
            folder = self.folders.compared(folder, progress)
        plan = plan_publish(self.transport, folder.request)
        return preview(folder, plan, self.transport.url, self._unchecked(folder, progress, compared=not planned))

    def _is_there(self, parent: str | None) -> bool:
        try:
            self.transport.get("/resolve", Resolved, ref=parent)
        except NotFoundError:
            return False
        return True

    def _unchecked(self, folder: PublishFolder, progress: Progress, *, compared: bool) -> Iterator[str]:
        """The checks left to the service, which reads no weights before they are published."""
        if folder.adapter.form is EXACT:
            yield "whether its values are finite and not its parent's: the service checks that when it is published"
            return
        if self.arithmetic is None:
            yield "whether all weights are finite: torch is not installed here"
        else:
            self.arithmetic().check_finite(folder.adapter.weights.file, progress)
        if not compared:
            yield "whether the folder that it was trained on is that of its parent, which is not published yet"
        yield "notices about its weights: the service looks for them when they are published"
        yield "whether its weights fit those of its lineage: the service checks that when they are published"

    def publish(self, folder: PublishFolder, progress: Progress) -> Published:
        return publish_folder(self.transport, self.folders.compared(folder, progress), progress)

    def searched(self, folder: TrainedFolder, progress: Progress) -> FolderCompared:
        return self.folders.searched(folder, UNTIMED, progress)

    def full_size(self, base: str, folder: Path, far: float, progress: Progress) -> FullSize | None:
        bundle = self.folders.bundle(base)
        there = self.folders.base_files(bundle, progress)
        arithmetic = needed(self.arithmetic, "compare a full model with its base model")
        return arithmetic.full_size(bundle, self.folders.open_blob, there, folder, far, progress)
