"""vLLM with the registry's plugin as a sink: the engine fetches and switches by itself, and is asked what it serves.

The plugin is known by its answer to a name that is none: only it says that this is no reference. It follows by itself,
warm and without a failed request (decision 88), so nothing is loaded here. A name is asked for once, by a request of
one token, so that the engine has it before the first client comes; the answer says which revision that was. Where the
plugin was told not to follow (``REGISTRY_VLLM_FOLLOW=0``) a name stays behind: then the new revision is asked for under
its own number, so that it is warm, and the name is unloaded, to be resolved again at its next request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from registry.errors import InvalidAdapterError, UnavailableError
from registry.follow.endpoint import Endpoint, said
from registry.follow.vllm import Vllm

if TYPE_CHECKING:
    from registry.follow.sinks import Form
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas.followed import Where

_GIVEN: Final = re.compile(r"(.+)#([1-9][0-9]*)-[0-9a-f]{32}(?:~[1-9][0-9]*)?")
_PATIENCE: Final = 10.0  # seconds that a plugin which follows may need
_LOOK: Final = 0.5
_OK: Final = 200
_UNAVAILABLE: Final = 503


class PluginSink:
    """A sink of one vLLM that has the plugin; see the module."""

    def __init__(self, engine: Vllm, endpoint: Endpoint, wait: Callable[[float], None] = time.sleep) -> None:
        self._engine: Final = engine
        self._endpoint: Final = endpoint
        self._wait = wait
        self._given: dict[str, str] = {}  # name -> what the engine answered it with, while it has that

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Sink`: there is nothing to hold."""
        yield

    def there(self) -> Mapping[str, str]:
        """See `Sink`: of the names that were asked for here, those whose adapter the engine still has."""
        listed = self._engine.names()
        self._given = {name: given for name, given in self._given.items() if given in listed}
        return {name: _reference(given) for name, given in self._given.items()}

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """See `Sink`. Bytes are the plugin's matter, and so is their form."""
        del form
        return _reference(self._given.get(name, "")) == str(where.reference)

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """See `Sink`: the plugin brings it when it is asked for."""
        del registry, where, form, progress
        return False

    def point(self, name: str, where: Where, form: Form) -> None:
        """See `Sink`."""
        self._ask(name)
        waited = 0.0
        while not self.leads_to(name, where, form) and waited < _PATIENCE:
            self._wait(_LOOK)
            waited += _LOOK
            self._ask(name)
        if self.leads_to(name, where, form):
            return
        self._ask(str(where.reference))  # warm, or refused before anything has changed
        self._engine.unload(name)
        self._ask(name)
        if not self.leads_to(name, where, form):
            raise UnavailableError(
                f"vLLM at {self._engine.url} answers {name} with {_reference(self._given[name])}, and not with "
                f"{where.reference}: its plugin asks another registry, or its token sees another one."
            )

    def _ask(self, name: str) -> None:
        body: dict[str, Any] = {"model": name, "prompt": [1], "max_tokens": 1, "temperature": 0}
        status, answer = self._endpoint.ask("/v1/completions", body)
        if status == _OK and isinstance(answer, dict) and _GIVEN.fullmatch(str(answer.get("model"))):
            self._given[name] = str(answer["model"])
            return
        self._given.pop(name, None)
        sentence = f"vLLM at {self._engine.url} does not serve {name}: {said(answer)}."
        if status >= _UNAVAILABLE or status == _OK:
            raise UnavailableError(sentence)
        raise InvalidAdapterError(sentence, code="engine_limits")

    def drop(self, name: str) -> None:
        """See `Sink`: the plugin refuses its next request by what the registry says."""
        self._engine.unload(name)
        self._given.pop(name, None)

    def sweep(self, now: float, keep_for: float) -> list[str]:
        """See `Sink`: the plugin keeps folders itself."""
        del now, keep_for
        return []

    def used(self) -> set[str]:
        """Folders of a follower that the engine reads: none."""
        return set()


def has_plugin(endpoint: Endpoint, base: str) -> bool:
    """Whether the engine at an address resolves names of a base model by the registry's plugin."""
    body = {"model": f"{base}/@", "prompt": [1], "max_tokens": 1}
    _, answer = endpoint.ask("/v1/completions", body)
    return "is not a reference of the registry" in said(answer)


def _reference(given: str) -> str:
    found = _GIVEN.fullmatch(given)
    return "" if found is None else f"{found[1]}@{found[2]}"
