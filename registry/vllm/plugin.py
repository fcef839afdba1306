"""The plugin: vLLM calls `register` in each of its processes (entry point ``vllm.general_plugins``).

vLLM is imported only here, and only when it calls: the package does not depend on it.
"""

from __future__ import annotations

import importlib
import os
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final

from registry.app import open_registry
from registry.errors import (
    AccuracyError,
    ConflictError,
    InvalidAdapterError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from registry.settings import read_settings
from registry.vllm.inside import Inside
from registry.vllm.resolver import LOG, RegistryResolver

NAME: Final = "Adapter Registry Resolver"
_ASKED_FOR: Final = "REGISTRY_VLLM_"  # settings with this prefix are only set for the resolver
_STATUSES: Final[tuple[tuple[type[RegistryError], HTTPStatus], ...]] = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (InvalidAdapterError, HTTPStatus.BAD_REQUEST),
    (AccuracyError, HTTPStatus.BAD_REQUEST),
    (ConflictError, HTTPStatus.BAD_REQUEST),
)


class RefusedError(Exception):
    """A fault on the server's side: versions of vLLM without error classes of their own answer 500 with its text."""


class Vllm:
    """The vLLM of this process."""

    def request(self, name: str, number: int, folder: str) -> Any:
        """vLLM's ``LoRARequest``, with a number that can't be changed."""
        return _numbered()(lora_name=name, lora_int_id=number, lora_path=folder)

    def refusal(self, problem: RegistryError) -> Exception:
        """An error that vLLM answers with its message, and with the matching status if possible.

        An exception of a resolver passes through vLLM to its error handlers. Which classes they know depends on the
        version; without one for the status, a ValueError becomes a 400 and any other error a 500, with its text.
        """
        malformed = problem.code == "bad_name"  # other usage errors are the fault of whoever configured vLLM
        status = next(
            (status for kind, status in _STATUSES if isinstance(problem, kind)),
            HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.SERVICE_UNAVAILABLE,
        )
        known = _exceptions()
        if status is HTTPStatus.NOT_FOUND and hasattr(known, "VLLMNotFoundError"):
            return _made(known.VLLMNotFoundError(str(problem)))
        if status is HTTPStatus.BAD_REQUEST and hasattr(known, "VLLMValidationError"):
            return _made(known.VLLMValidationError(str(problem), parameter="model"))
        if hasattr(known, "GracefulHTTPError"):
            return _made(known.GracefulHTTPError(str(problem), status))
        return RefusedError(str(problem)) if status is HTTPStatus.SERVICE_UNAVAILABLE else ValueError(str(problem))

    def server(self) -> Inside | None:
        """The server that asks in this call."""
        return Inside.asking()


@cache
def _numbered() -> type[Any]:
    """vLLM's ``LoRARequest`` with a number that vLLM can't change.

    After a resolver's answer, vLLM's OpenAI server gives each *requested name* a number of its own, and so a slot:
    three names of one revision would take three. It is pickled as vLLM's own class.
    """
    from vllm.lora.request import LoRARequest

    class NumberedRequest(LoRARequest):  # type: ignore[misc, unused-ignore]
        def __setattr__(self, name: str, value: object) -> None:
            if name != "lora_int_id":
                super().__setattr__(name, value)

        def __reduce__(self) -> tuple[Any, ...]:
            return LoRARequest, (self.lora_name, self.lora_int_id, self.lora_path)

    return NumberedRequest


def _exceptions() -> Any:
    """vLLM's module of errors; None in versions without it."""
    try:
        return importlib.import_module("vllm.exceptions")
    except ModuleNotFoundError:
        return None


def _made(error: Any) -> Exception:
    if not isinstance(error, Exception):
        raise TypeError(f"{error!r} of vLLM is not an exception")
    return error


def register() -> None:
    """Add the resolver to vLLM's registry.

    Raises:
        UsageError: a setting is malformed, and this vLLM was configured for the resolver.
    """
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    try:
        settings = read_settings(os.environ)
    except UsageError as problem:
        if any(name.startswith(_ASKED_FOR) for name in os.environ):
            raise
        # This vLLM may have nothing to do with the registry: it must start anyway.
        LOG.error("The adapter registry's resolver is disabled: %s", problem)
        return
    LoRAResolver.register(RegistryResolver)
    connect = partial(open_registry, create=True, interface="vllm")
    LoRAResolverRegistry.register_resolver(NAME, RegistryResolver(Vllm(), connect, settings, os.environ))
