"""Copies of what a trainer saved: the adapter without the trainer's own state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from registry.folders.heap.kinds import CHECKPOINT
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder

_STATE: Final = "trainer_state.json"  # differs between two saves of the same weights, and its figures are metrics


def copy_adapter(checkpoint: Path, into: Path) -> None:
    """Copy what of a checkpoint belongs to a revision.

    Raises:
        InvalidAdapterError, NotFoundError: as `registry.folders.scan.adapter_folder`.
        OSError: a file can't be read or written.
    """
    for one in adapter_folder(checkpoint).files:
        if one.path != _STATE:
            (into / one.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.file, into / one.path)


def checkpoint_of(output: Path, step: int, adapter: str) -> Path | None:
    """Where a trainer has the adapter's files of a step; None: nowhere."""
    folder = output / f"checkpoint-{step}"
    for place in (folder, folder / adapter):  # by name where it is not PEFT's default
        if (place / ADAPTER_CONFIG).is_file() and (place / ADAPTER_WEIGHTS).is_file():
            return place
    return None


def last_checkpoint(output: Path, adapter: str) -> int | None:
    """The last step of which a trainer has the adapter's files."""
    steps = [int(match[1]) for one in output.iterdir() if (match := CHECKPOINT.fullmatch(one.name))]
    return max((step for step in steps if checkpoint_of(output, step, adapter) is not None), default=None)


def is_sharded(args: Any) -> bool:
    """Whether the weights are spread over processes, so that none of them can save the model alone."""
    return bool(getattr(args, "fsdp", None)) or getattr(args, "deepspeed", None) is not None
