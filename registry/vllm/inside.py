"""The private parts of vLLM that following needs, all of them: the server's table of names, and the engine behind it.

Read in 0.11, 0.17, 0.24, 0.32, 0.33 and 0.34, tried with 0.32. No interface of vLLM leads from a resolver to the server
that asks it. Its class has moved from module to module, and the garbage collector does not list it, because vLLM
freezes its heap when it has started. But it awaits the resolver itself, so it is in the frames of that call, and is
known there by its parts.

The table belongs to the server's event loop: whatever touches it runs there, between two steps of the server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar

from registry.vllm.following import EngineError, Memory, ServerEndedError

T = TypeVar("T")
_LOOKS: Final = 1.0  # seconds between looks whether the server's event loop still runs
_ANSWERS: Final = 300.0  # seconds that the engine may take, such as to read an adapter from a slow disk


@dataclass(frozen=True)
class Inside:
    """The server that asks; its methods are for another thread than its own."""

    models: Any  # vLLM's OpenAIServingModels
    loop: asyncio.AbstractEventLoop

    @classmethod
    def asking(cls) -> Inside | None:
        """The server whose request is being resolved by this call; None: this vLLM is built otherwise."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            found = frame.f_locals.get("self")
            if _has_parts(found):
                return cls(found, asyncio.get_running_loop())
            frame = frame.f_back
        return None

    def names(self) -> dict[str, Any]:
        """The table: what each name that was asked for is answered with."""
        return self._do(self._names())

    def memory(self) -> Memory:
        """Which adapters the engine has in memory, and how many fit."""
        return self._do(self._memory())

    def warm(self, request: Any) -> None:
        """Have the engine load an adapter, as for a request of it.

        Raises:
            EngineError: it refused, for the reason in the text.
        """
        self._do(self.models.engine_client.add_lora(request))

    def put(self, name: str, before: Any, request: Any) -> bool:
        """Answer a name with another adapter from now on; False: the name was unloaded or loaded anew meanwhile."""
        return self._do(self._put(name, before, request))

    def drop(self, name: str, before: Any) -> bool:
        """Forget a name, so that its next request is resolved anew; False: somebody else did."""
        return self._do(self._put(name, before, None))

    async def _names(self) -> dict[str, Any]:
        return dict(self.models.lora_requests)

    async def _memory(self) -> Memory:
        limits = self.models.engine_client.vllm_config.lora_config
        loaded = await self.models.engine_client.list_loras()
        named = frozenset(request.lora_int_id for request in self.models.lora_requests.values())
        return Memory(limits.max_cpu_loras or limits.max_loras, named, frozenset(loaded))

    async def _put(self, name: str, before: Any, request: Any | None) -> bool:
        table = self.models.lora_requests
        if table.get(name) is not before:  # also while vLLM resolves it, which may take long and holds the lock
            return False
        async with self.models.lora_resolver_lock[name]:
            if table.get(name) is not before:
                return False
            if request is None:
                del table[name]
            else:
                table[name] = request
            return True

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this on the server's event loop, and wait for it.

        Raises:
            ServerEndedError: the server has ended.
            EngineError: it failed, or took too long.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as closed:
            work.close()
            raise ServerEndedError from closed
        for _ in range(round(_ANSWERS / _LOOKS)):
            try:
                return future.result(_LOOKS)
            except TimeoutError as late:
                if not future.done() and not self.loop.is_running():
                    raise ServerEndedError from late
                if future.done():
                    raise EngineError("it ran out of time") from late
            except CancelledError as stopped:  # the server cancels what still runs when it stops
                raise ServerEndedError from stopped
            except Exception as problem:
                raise EngineError(str(problem) or type(problem).__name__) from problem
        future.cancel()
        raise EngineError(f"it did not answer within {_ANSWERS:.0f} seconds")


def _has_parts(found: object) -> bool:
    """Whether this is vLLM's server of models, by all that is used of it."""
    engine = getattr(found, "engine_client", None)
    limits = getattr(getattr(engine, "vllm_config", None), "lora_config", None)
    return (
        isinstance(getattr(found, "lora_requests", None), dict)
        and isinstance(getattr(found, "lora_resolver_lock", None), dict)
        and all(callable(getattr(engine, name, None)) for name in ("add_lora", "list_loras"))
        and all(hasattr(limits, name) for name in ("max_loras", "max_cpu_loras"))
    )
