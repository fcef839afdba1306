"""The resolver: turns a reference requested from vLLM into a folder that vLLM loads, or refuses it by its rules.

vLLM calls it once per name and caches the answer until the name is unloaded; `registry.vllm.following` keeps these
answers up to date. Meanwhile vLLM locks that name only and continues other requests, so the work runs on threads of our
own.

Rejects what vLLM can't load before vLLM gets it: vLLM fails late, with the reason in the server's log only.

The rules are those of `registry.engines.rules`, as for ``registry check --engine vllm``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from registry.digest import hex_of
from registry.engines.checking import engine_check, needs_plain
from registry.engines.rules import ENGINES
from registry.errors import (
    AccuracyError,
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    NotFoundError,
    RegistryError,
    UnavailableError,
    UsageError,
)
from registry.folders.local_files import reason
from registry.folders.scan import RECEIPT
from registry.folders.staging import Hold, hold
from registry.follow.reporting import Reporter
from registry.operations.readable import ReadableArtifact
from registry.operations.registry import Registry
from registry.reference import Reference
from registry.schemas import Fetched, Truncation
from registry.schemas.artifacts import EngineCheck
from registry.schemas.followed import Where
from registry.schemas.running import NameReport
from registry.settings import Settings
from registry.vllm.following import Follower, Server
from registry.vllm.served import DIGITS, Asked, Names, Served, base_of, served_base, untied

DEFAULT_MAX_RANK: Final = ENGINES["vllm"].rank or 1


def rank_for_vllm(reference: str, artifact: ReadableArtifact, *, plain: bool = False) -> tuple[int, bool]:
    """The largest rank in a composed adapter, and whether it has DoRA that is to become plain pairs.

    ``plain`` allows that; everything else has to be what vLLM can load.

    Raises:
        InvalidAdapterError: ``engine_limits``, it has a part that vLLM can't load.
    """
    found = engine_check(reference, artifact, "vllm", None)
    has_dora = plain and needs_plain(found)
    if (found.reasons and not has_dora) or found.rank is None:
        said = " ".join(reason.sentence for reason in found.reasons)
        here = running()
        if here is not None and here.partition("+")[0] != found.version:
            said += f" vLLM {here} runs here, and the rules are those of {found.version}."
        raise InvalidAdapterError(
            f"vLLM can't load {reference} as an adapter. {said} {_instead(found)}", code="engine_limits"
        )
    return found.rank, has_dora


def _instead(found: EngineCheck) -> str:
    nearest = ", or set REGISTRY_VLLM_MAX_ERROR, such as to 0.05, for the nearest LoRA without DoRA"
    return f"Serve the path merged (`{found.would_do}`){nearest if needs_plain(found) else ''}."


def running() -> str | None:
    """The version of the calling vLLM; None: it is not known."""
    return getattr(sys.modules.get("vllm"), "__version__", None)


def too_large(reference: str, rank: int, limit: int) -> InvalidAdapterError:
    """The error for a rank above the limit where no truncation is allowed."""
    return InvalidAdapterError(
        f"{reference} has rank {rank} but vLLM accepts at most {limit}; start vLLM with a larger --max-lora-rank and "
        "set REGISTRY_VLLM_MAX_RANK to the same, or allow an error with REGISTRY_VLLM_MAX_ERROR, such as 0.05, to "
        "have such adapters truncated.",
        code="engine_limits",
    )


def too_inexact(reference: str, rank: int, limit: int, problem: AccuracyError, *, plain: bool) -> AccuracyError:
    """The error for a rank that can't be truncated, or a DoRA that can't be made plain, within the allowed error."""
    what = "DoRA, and a plain LoRA of at most rank" if plain else f"rank {rank} but vLLM accepts at most"
    return AccuracyError(f"{reference} has {what} {limit}, which REGISTRY_VLLM_MAX_ERROR does not allow. {problem}")


LOG: Final = logging.getLogger("vllm.registry")  # below vLLM's logger, so that its logging configuration applies
_THREADS: Final = 4
_TRIES: Final = 3


class Engine(Protocol):
    """What the resolver needs of vLLM."""

    def request(self, name: str, number: int, folder: str) -> Any:
        """vLLM's ``LoRARequest``."""

    def refusal(self, problem: RegistryError) -> Exception:
        """The exception to raise through vLLM, so that its client sees the reason."""

    def server(self) -> Server | None:
        """The server that asks in this call, to change its table of names; None: this vLLM is built otherwise."""


class RegistryResolver:
    """A ``LoRAResolver`` of vLLM. The registry is opened at the first name that may belong to it."""

    def __init__(
        self, engine: Engine, connect: Callable[[], Registry], settings: Settings, environ: Mapping[str, str]
    ) -> None:
        self._engine = engine
        self._connect = connect
        self._settings = settings
        self._environ = environ
        self._names = Names()
        self._served: dict[str, Served] = {}
        self._holds: dict[str, Hold] = {}  # by rendering, until this process ends
        self._flights: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._given: dict[str, str] = {}  # by the name that vLLM got: the revision, as a round of following compares it
        self._follower: Follower | None = None
        self._unknown = False  # whether it was said that this vLLM can't be followed
        self._lock = threading.Lock()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any | None:
        """The adapter of that name for the engine that serves ``base_model_name``.

        None if the name is not the registry's, so that vLLM queries other resolvers.

        Raises:
            Exception: the name is the registry's, but no adapter can be loaded for it: vLLM's error, with the reason.
        """
        try:
            asked = Asked.parse(lora_name)
        except UsageError as problem:
            if not self._is_ours(base_model_name, base_of(lora_name)):
                return None
            malformed = UsageError(f"{lora_name!r} is not a reference of the registry: {problem}", code=problem.code)
            raise self._refusal(lora_name, malformed) from problem
        if asked is None or not self._is_ours(base_model_name, asked.reference.path.base):
            return None
        self._follow(base_model_name)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, base_model_name, asked)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="registry")

    @cached_property
    def _registry(self) -> Registry:
        return self._connect()

    def _is_ours(self, model: str, base: str) -> bool:
        if model not in self._served:
            self._served[model] = served_base(model, self._settings, self._environ)
            if self._served[model].base is None:
                LOG.warning("%s", self._served[model].wrong or untied(model))
        return self._served[model].base == base

    def _follow(self, model: str) -> None:
        """Follow from the first name on: here, and in no process that vLLM has besides its server, somebody asks."""
        served = self._served[model]
        if not self._settings.vllm_follow or served.base is None or served.wrong is not None:
            return
        if self._follower is not None and self._follower.alive():
            return
        server = self._engine.server()
        if server is not None:
            self._follower = Follower(server, Followed(self, served.base), self._reporting(model))
            self._follower.start()
        elif not self._unknown:
            self._unknown = True
            LOG.warning(
                "Moved tags do not reach this vLLM%s by themselves, because its server is built otherwise than those "
                "that the plugin knows; unload a name to have it resolved again.",
                "" if running() is None else f" {running()}",
            )

    def _reporting(self, model: str) -> Callable[[Iterable[NameReport]], None]:
        """What tells the registry what this engine serves; it is opened on the thread of whoever reports."""
        made: list[Reporter] = []

        def report(names: Iterable[NameReport]) -> None:
            if not made:
                made.append(Reporter(self.registry(), "vllm", f"{socket.gethostname()} {model}"))
            made[0].update(names)

        return report

    def _resolve(self, model: str, asked: Asked) -> Any:
        try:
            wrong = self._served[model].wrong
            if wrong is not None:
                raise IntegrityError(wrong, code="wrong_base")
            return self.request(asked)
        except RegistryError as problem:
            raise self._refusal(asked.text, problem) from problem
        except OSError as problem:
            where = f" ({os.fsdecode(problem.filename)})" if isinstance(problem.filename, str | bytes) else ""
            said = f"{asked.said} can't be computed on vLLM's machine: {reason(problem)}{where}."
            raise self._refusal(asked.text, UnavailableError(said)) from problem

    def _refusal(self, text: str, problem: RegistryError) -> Exception:
        LOG.warning("%s was not loaded into vLLM (%s): %s", text, problem.code, problem)
        return self._engine.refusal(problem)

    def registry(self) -> Registry:
        """The registry, opened by the first who needs it."""
        with self._lock:
            return self._registry

    def given(self, request: Any) -> str | None:
        """The revision, reference and digest, of a request that this resolver made; None: somebody else made it."""
        return self._given.get(request.lora_name)

    def request(self, asked: Asked) -> Any:
        """vLLM's request for what a name means now, its files on this machine until this process ends.

        Raises:
            RegistryError: there is no such revision, or vLLM can't load it.
            OSError: this machine refuses.
        """
        registry = self.registry()
        resolved = registry.resolve(str(asked.reference))
        pinned = resolved.reference
        with self._lock:
            flight = self._flights[pinned]
        with flight:  # concurrent requests for the same revision wait, and find it in the cache
            fetched = self._fetch(registry, pinned)
        if asked.rendering not in (None, hex_of(fetched.rendering)[:DIGITS]):
            raise NotFoundError(
                f"{asked.text} names bytes that this machine no longer computes for {pinned}; ask for "
                f"{asked.reference}."
            )
        revision = Reference.parse(pinned).number
        if revision is None:
            raise AssertionError(f"{pinned} is not a revision")
        name, number = self._names.give(asked.reference.path, revision, fetched.rendering)
        self._given[name] = f"{pinned} {resolved.digest}"
        LOG.info("%s is %s, known to vLLM as %s from %s", asked.text, pinned, name, fetched.folder)
        return self._engine.request(name, number, fetched.folder)

    def _fetch(self, registry: Registry, pinned: str) -> Fetched:
        """The composed adapter in the cache, within vLLM's limits, locked in the cache.

        Raises:
            InvalidAdapterError: ``engine_limits``.
            AccuracyError: no adapter of the allowed rank is within the allowed error.
        """
        limit = self._settings.vllm_max_rank or DEFAULT_MAX_RANK
        with registry.artifact(pinned) as artifact:
            rank, plain = rank_for_vllm(pinned, artifact, plain=self._settings.vllm_max_error is not None)
        if rank > limit and self._settings.vllm_max_error is None:
            raise too_large(pinned, rank, limit)
        truncated = plain or rank > limit
        for left in reversed(range(_TRIES)):
            try:
                fetched = registry.fetch(
                    pinned,
                    rank=limit if truncated else None,
                    max_error=self._settings.vllm_max_error if truncated else None,
                    plain=plain,
                )
            except ConflictError:  # another process filled the same folder meanwhile
                if not left:
                    raise
                continue
            except AccuracyError as problem:
                raise too_inexact(pinned, rank, limit, problem, plain=plain) from problem
            if self._hold(fetched):
                if fetched.truncation is not None:
                    _tell(pinned, rank, fetched.truncation, fetched.folder)
                return fetched
        raise UnavailableError(
            f"{pinned} is removed from the cache as soon as it is fetched; raise REGISTRY_CACHE_SIZE, because other "
            "programs fill the cache."
        )

    def _hold(self, fetched: Fetched) -> bool:
        """Lock the folder: vLLM reads it again whenever its own caches have evicted the adapter.

        The lock lasts until this process ends, because vLLM does not report when it unloads a name.
        """
        folder = Path(fetched.folder)
        with self._lock:
            before = self._holds.get(fetched.rendering)
            if before is not None and before.is_of(folder):
                return True
            held = hold(folder)
            if held is None:
                return False
            self._holds[fetched.rendering] = held
            if before is not None:
                before.release()
            return True


class Followed:
    """What following needs of a resolver."""

    def __init__(self, resolver: RegistryResolver, base: str) -> None:
        self.base = base
        self._resolver = resolver

    def where(self, names: Sequence[str]) -> tuple[Where, ...]:
        return self._resolver.registry().where(names)

    def bring(self, asked: Asked) -> Any:
        return self._resolver.request(asked)

    def given(self, request: Any) -> str | None:
        return self._resolver.given(request)


def _tell(pinned: str, rank: int, truncation: Truncation, folder: str) -> None:
    total = truncation.total
    LOG.info(
        "%s was truncated from rank %d to %s with a relative error of %.3g (allowed: %g); the report is in %s",
        pinned,
        rank,
        truncation.rank,
        total.relative_frobenius if total.written is None else total.written,
        truncation.max_error or 0.0,
        Path(folder) / RECEIPT,
    )
