"""What the folder holds that a training starts from, recorded when it starts: it may be overwritten before the end.

Reading all of it takes as long as the disk does, so a thread does that beside the training.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from registry.transfer.trained_on import TrainedRecord, trained_folder, weights_of_folder, write_record

LOG: Final = logging.getLogger("registry.training")
_FILE: Final = ".trained-on.json"


class Recording:
    """The record of one run, which lies beside the adapters that wait.

    A run that goes on keeps its first record: if it goes on from another folder, that is not what it was trained on.
    """

    def __init__(self, root: Path, model: Any, adapter: str) -> None:
        self._file = root / _FILE
        self._name: str | None = getattr(model.peft_config[adapter], "base_model_name_or_path", None)
        self._record: TrainedRecord | None = None
        self._thread = threading.Thread(target=self._work, name="registry-trained-on", daemon=True)

    def start(self, *, resumed: bool) -> None:
        """Begin to read the folder, unless a run goes on that has a record."""
        self._record = self._before() if resumed else None
        if self._record is None and self._name:
            self._thread.start()

    def lay_beside(self, adapter: Path) -> None:
        """Write the record into an adapter's folder, once it is made; nothing, where there is no folder to record.

        Raises OSError.
        """
        if self._thread.is_alive():
            self._thread.join()
        if self._record is not None:
            write_record(adapter, self._record)

    def _before(self) -> TrainedRecord | None:
        try:
            return TrainedRecord.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return None

    def _work(self) -> None:
        name = self._name or ""
        folder = trained_folder(json.dumps({"base_model_name_or_path": name}).encode(), Path.cwd())
        if folder is None:
            return
        try:
            digest = weights_of_folder(folder.place)
            if digest is None:
                return
            self._record = TrainedRecord(name=name, digest=digest)
            self._file.write_text(self._record.model_dump_json(indent=2), encoding="utf-8")
        except OSError as problem:
            LOG.warning("What %s holds could not be recorded: %s", folder.words, problem)
