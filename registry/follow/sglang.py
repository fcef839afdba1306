"""SGLang as an engine that is followed: `/v1/models`, `/load_lora_adapter`, `/unload_lora_adapter`, `/server_info`.

By its source (managers/tokenizer_control_mixin.py, lora/lora_registry.py): an unload takes the name away, waits for the
name's last request, and holds a lock meanwhile, for which loads queue. Each load has an identity of its own, also in
the prefix cache. But a name that was unloaded is not forgotten: the next request for it loads the folder again that it
was loaded from last, and what was retracted would be back.

So a folder is given as a link of its own for each name, which is removed before the name is unloaded: then there is
nothing that could come back. The new load queues behind the unload; requests that come after it wait, and get the new
revision. Those between the two are refused.

Weights are read from the folder at a load only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from registry.errors import InvalidAdapterError, UnavailableError, UsageError
from registry.folders.local_files import telling_unwritable
from registry.follow.endpoint import Endpoint, said
from registry.follow.revisions import REVISIONS, Revisions
from registry.follow.sinks import flat

_LOOK: Final = 0.02  # seconds
_OK: Final = 200
_NOT_FOUND: Final = 404
_DIGITS: Final = 12


class Sglang:
    """See the module.

    Args:
        room: the links lie beside its folders.
        wait: waits some seconds, for tests.
    """

    def __init__(self, endpoint: Endpoint, room: Revisions, wait: Callable[[float], None] = time.sleep) -> None:
        self.url: Final = endpoint.url
        self._endpoint: Final = endpoint
        self._wait = wait
        digits = hashlib.sha256(endpoint.url.encode()).hexdigest()[:_DIGITS]
        self._links: Final = room.folder / ".names" / digits
        self._room: Final = room
        self._most: int | None = None

    def process(self) -> str:
        """See `Engine`.

        Raises:
            UsageError: it takes no adapters, or has several servers behind one address.
        """
        status, answer = self._endpoint.ask("/server_info")
        if status == _NOT_FOUND:  # by the name of older versions
            status, answer = self._endpoint.ask("/get_server_info")
        if status != _OK or not isinstance(answer, dict):
            raise UnavailableError(f"SGLang at {self.url} does not tell its settings ({status}): {said(answer)}.")
        if not answer.get("enable_lora"):
            raise UsageError(f"SGLang at {self.url} takes no adapters; start it with --enable-lora.")
        for setting, option in (("tokenizer_worker_num", "--tokenizer-worker-num"), ("dp_size", "--dp-size")):
            if int(answer.get(setting) or 1) > 1:
                raise UsageError(
                    f"SGLang at {self.url} runs with {option} {answer[setting]}, where each server has names of "
                    "its own and loads reach one at random; only 1 can be followed."
                )
        self._most = answer.get("max_loaded_loras")
        return f"{answer.get('random_seed')} {answer.get('served_model_name')} {answer.get('port')}"

    def names(self) -> dict[str, str]:
        """See `Engine`."""
        return {name: self._folder(root) for name, root in self._listed().items()}

    def _listed(self) -> dict[str, str]:
        status, answer = self._endpoint.ask("/v1/models")
        cards = answer.get("data") if isinstance(answer, dict) else None
        if status != _OK or not isinstance(cards, list):
            raise UnavailableError(f"SGLang at {self.url} does not list its names ({status}): {said(answer)}.")
        return {str(one["id"]): str(one.get("root")) for one in cards if one.get("parent")}

    def _folder(self, root: str) -> str:
        """The folder that was loaded by a link of ours, also by one that is removed: its name tells."""
        link = Path(root)
        if link.parent.parent != self._links.parent:
            return root
        return str(self._room.place / link.name.partition("+")[2])

    def load(self, name: str, folder: Path) -> None:
        """See `Engine`."""
        listed = self._listed()
        if self._most is not None and len(listed) >= self._most and name not in listed:
            raise InvalidAdapterError(
                f"SGLang at {self.url} keeps at most {self._most} adapters, and has them: one more would throw out one "
                "that is served. Start it with a larger --max-loaded-loras: one more than there are names.",
                code="engine_limits",
            )
        self._load(name, folder)

    def _load(self, name: str, folder: Path) -> None:
        link = self._link(name, folder)
        with telling_unwritable(self._links):
            self._links.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                link.symlink_to(Path("..", "..", REVISIONS, folder.name), target_is_directory=True)
        status, answer = self._endpoint.ask("/load_lora_adapter", {"lora_name": name, "lora_path": str(link)})
        if _failed(status, answer):
            link.unlink(missing_ok=True)
            raise InvalidAdapterError(
                f"SGLang at {self.url} refuses {folder.name}: {said(answer)}. It has to see {link} under this path.",
                code="engine_limits",
            )

    def unload(self, name: str) -> None:
        """See `Engine`. It returns when the last request of the name has ended."""
        self._unlink(name)
        status, answer = self._endpoint.ask("/unload_lora_adapter", {"lora_name": name})
        if _failed(status, answer) and name in self._listed():
            raise UnavailableError(f"SGLang at {self.url} does not unload {name} ({status}): {said(answer)}.")

    def switch(self, name: str, folder: Path) -> None:
        """See `Engine`."""
        with ThreadPoolExecutor(1) as thread:
            unloading = thread.submit(self.unload, name)
            while not unloading.done() and name in self._listed():
                self._wait(_LOOK)
            try:
                self._load(name, folder)
            except InvalidAdapterError:
                unloading.result()
                self._load(name, folder)  # where loads do not queue behind it
            unloading.result()

    def busy(self) -> frozenset[str]:
        """See `Engine`: folders are read at a load only."""
        return frozenset()

    def _link(self, name: str, folder: Path) -> Path:
        return self._links / f"{flat(name)}+{folder.name}"

    def _unlink(self, name: str) -> None:
        """Remove the links of a name, and those that lead nowhere any more."""
        with telling_unwritable(self._links):
            for link in self._links.iterdir() if self._links.is_dir() else ():
                if link.is_symlink() and (link.name.startswith(f"{flat(name)}+") or not os.path.exists(link)):  # noqa: PTH110
                    link.unlink(missing_ok=True)


def _failed(status: int, answer: Any) -> bool:
    return status != _OK or (isinstance(answer, dict) and answer.get("success") is False)
