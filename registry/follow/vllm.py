"""vLLM as an engine that is followed from outside: `/v1/models`, `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`.

By the source of 0.32: a request keeps the adapter that it began with, and a name that is loaded again gets another
number. But two requests in a batch whose adapters have one name are taken for one adapter: only one of them is kept in
its slot, and a step that needs the other one ends the engine. `load_inplace` keeps the number and changes the weights
under requests that run. So a name is unloaded, its last request ends, and only then it is loaded again; in between,
clients get 404. Blocks of the prefix cache are keyed by name and folder; before 0.32 it was the name alone, under which
old blocks would answer for new weights.

The metric `vllm:lora_requests_info` says which names have requests. It is set in each step, so that it stays as it was
while nothing runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError, UnavailableError, UsageError
from registry.follow.endpoint import Endpoint, said

_STATES: Final = re.compile(r"^vllm:lora_requests_info\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(running|waiting)_lora_adapters="([^"]*)"')
_STARTED: Final = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_LEAST: Final = (0, 32)
_LOOK: Final = 0.25  # seconds between looks at a name's requests
_QUIET: Final = 3  # looks that show none, after an unload: a request shows a step after it was taken in
_STILL: Final = 10.0  # seconds without a step: nothing runs
_DRAIN: Final = 20.0  # seconds for the last requests; after that, other names have their turn first

_OK: Final = 200
_NOT_FOUND: Final = 404


class Vllm:
    """See the module.

    Args:
        wait: waits some seconds, for tests.
    """

    def __init__(self, endpoint: Endpoint, wait: Callable[[float], None] = time.sleep) -> None:
        self.url: Final = endpoint.url
        self._endpoint: Final = endpoint
        self._wait = wait
        self._checked = ""  # the process whose version was read

    def process(self) -> str:
        """See `Engine`.

        Raises:
            UsageError: several API servers or data-parallel engines are behind one address, which can't be followed;
                or its metrics don't say what runs, or its version keeps old blocks under the names of new weights.
        """
        text = self._metrics()
        started = _STARTED.search(text)
        if "vllm:lora_requests_info" not in text:
            raise UsageError(
                f"vLLM at {self.url} does not say which adapters have requests; start it with --enable-lora, and "
                "without --disable-log-stats."
            )
        if started is None:
            raise UsageError(
                f"vLLM at {self.url} runs several API servers behind one address, so that what is loaded reaches one "
                "of them at random; start it with --api-server-count 1, or use the registry's plugin."
            )
        if '{engine="1"' in text or ',engine="1"' in text:
            raise UsageError(
                f"vLLM at {self.url} runs several data-parallel engines, of which its metrics don't say which adapters "
                "have requests; use the registry's plugin, or one engine for each address."
            )
        if self._checked != started[1]:
            self._check_version()
            self._checked = started[1]
        return started[1]

    def _check_version(self) -> None:
        _, answer = self._endpoint.ask("/version")
        text = str(answer.get("version")) if isinstance(answer, dict) else ""
        found = _VERSION.match(text)
        if found is None or (int(found[1]), int(found[2])) < _LEAST:
            raise UsageError(
                f"vLLM {text or 'of an unknown version'} at {self.url} may answer for a revision from cached blocks of "
                f"the one before, as versions before {_LEAST[0]}.{_LEAST[1]} do; use a newer one, or the registry's "
                "plugin."
            )

    def names(self) -> dict[str, str]:
        """See `Engine`."""
        status, answer = self._endpoint.ask("/v1/models")
        cards = answer.get("data") if isinstance(answer, dict) else None
        if status != _OK or not isinstance(cards, list):
            raise UnavailableError(f"vLLM at {self.url} does not list its names ({status}): {said(answer)}.")
        return {str(one["id"]): str(one.get("root")) for one in cards if one.get("parent")}

    def load(self, name: str, folder: Path) -> None:
        """See `Engine`. Requests of an earlier adapter of that name are waited for."""
        self._load(name, folder, 1)

    def _load(self, name: str, folder: Path, looks: int) -> None:
        self._drained(name, looks)
        status, answer = self._endpoint.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if status == _OK:
            return
        if status == _NOT_FOUND and _has_no_route(answer):
            raise UsageError(
                f"vLLM at {self.url} takes no adapters while it runs; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
            )
        if status == _NOT_FOUND:
            raise UsageError(
                f"vLLM at {self.url} does not see {folder}; give both a volume that is mounted at the same path, as "
                f"--to vllm={self.url},folder=DIR."
            )
        raise InvalidAdapterError(f"vLLM at {self.url} refuses {folder.name}: {said(answer)}.", code="engine_limits")

    def unload(self, name: str) -> None:
        """See `Engine`."""
        status, answer = self._endpoint.ask("/v1/unload_lora_adapter", {"lora_name": name})
        if status != _OK and (status != _NOT_FOUND or _has_no_route(answer)):
            raise UnavailableError(f"vLLM at {self.url} does not unload {name} ({status}): {said(answer)}.")

    def switch(self, name: str, folder: Path) -> None:
        """See `Engine`. While the last requests of the old one end, clients get 404."""
        self.unload(name)
        self._load(name, folder, _QUIET)

    def busy(self) -> frozenset[str]:
        """See `Engine`."""
        return self._state()[1]

    def _drained(self, name: str, looks: int) -> None:
        """Wait for the last request of a name that is not in the table, until so many looks have shown none.

        Raises:
            UnavailableError: it takes long.
        """
        quiet, waited, still, last = 0, 0.0, 0.0, -1.0
        while quiet < looks:
            at, names = self._state()
            still = still + _LOOK if at == last else 0.0
            quiet = quiet + 1 if name not in names or still > _STILL else 0
            last = at
            if quiet < looks:
                if waited > _DRAIN:
                    raise UnavailableError(
                        f"{name} is between two revisions at {self.url}, because requests of the old one still run; "
                        "it is loaded when they have ended. Engines with the registry's plugin switch without waiting."
                    )
                self._wait(_LOOK)
                waited += _LOOK

    def _state(self) -> tuple[float, frozenset[str]]:
        """The time of the last step, and the names that had requests after it."""
        states = [(float(found[2]), found[1]) for found in _STATES.finditer(self._metrics())]
        at, labels = max(states, default=(0.0, ""))
        return at, frozenset(name for found in _LABEL.finditer(labels) for name in found[2].split(",") if name)

    def _metrics(self) -> str:
        status, text = self._endpoint.text("/metrics")
        if status != _OK:
            raise UnavailableError(f"vLLM at {self.url} does not show its metrics ({status}).")
        return text


def _has_no_route(answer: object) -> bool:
    """Whether this is what FastAPI says where there is nothing."""
    return isinstance(answer, dict) and answer.get("detail") == "Not Found"
