"""The limits of one request: bytes, depth, time and concurrency."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from registry.schemas.protocol import VIEWS

MIB: Final = 1 << 20
_PART: Final = re.compile(r"/[^/]+/[^/]+/[^/]+\.git/info/lfs/parts/[^/]+/[^/]+")
_COMMIT: Final = re.compile(r"/[^/]+/api/models/[^/]+/[^/]+/commit/")


@dataclass(frozen=True)
class Limits:
    """Limits of requests; sizes in bytes, times in seconds."""

    document: int = MIB  # a JSON body
    claims: int = 64 * MIB  # a plan or a commit: it carries the headers of all weight files
    push: int = 360 * MIB  # a commit of a Hub client: files of 256 MiB in base64, and what is said about them
    part: int = 5 << 30  # a part of an upload; its exact length is checked by the route
    depth: int = 64  # of JSON
    headers: int = 64
    header_bytes: int = 32 << 10
    query: int = 8 << 10
    head_time: float = 15.0  # until the last byte of the headers came
    body_grace: float = 20.0  # a body may take this long, and longer at `body_rate` bytes a second
    body_rate: float = 64 << 10
    answer_time: float = 60.0  # until the first byte of the answer
    plan_time: float = 600.0  # the same where ranks are found while planning, or bytes are read back
    stall_time: float = 60.0  # a client that reads less than a MiB in this time is disconnected
    threads: int = 32  # worker threads of requests
    bodies: int = 32  # bodies copied from the store at the same time
    parts: int = 32  # parts of uploads stored at the same time
    computed: int = 4  # bodies computed at the same time
    queue: int = 64  # computed bodies that wait for a slot
    queue_time: float = 8.0  # wait for a slot; Hub clients time out after 10 s without a byte
    thread_queue_time: float = 20.0  # the same of a base model, a truncation or a look
    denials: int = 300  # that are recorded at once; as many again in half a minute
    denials_of_one: int = 30  # the same of one token or address
    jobs: int = 2  # that run at the same time
    stop_time: float = 30.0  # graceful shutdown

    @property
    def head(self) -> int:
        """Bytes before the body."""
        return self.header_bytes + self.query + (16 << 10)

    def divided(self, workers: int) -> Limits:
        """The share of one of so many workers: what is refused or waits beyond a number, but at least one of each.

        Of slots and queues it may have more while others have less: see `registry.http.wire.admission.Share`.
        """
        parts = ("bodies", "parts", "computed", "queue", "denials", "denials_of_one", "jobs")
        return replace(self, **{name: max(1, getattr(self, name) // workers) for name in parts})

    def body_time(self, received: int) -> float:
        """How long a body may take of which this many bytes have arrived."""
        return self.body_grace + received / self.body_rate


def largest_body(limits: Limits, method: str, path: str) -> int:
    """The largest body of a route, by its address."""
    if method not in {"POST", "PUT"} | ({"DELETE", "PATCH"} if is_below_view(path) else set()):
        return 0
    if path.startswith("/api/v1/uploads/") or is_part(path):
        return limits.part
    if is_commit(path):
        return limits.push
    if path.startswith(("/api/v1/publishes", "/api/v1/bases", "/api/v1/parents")):
        return limits.claims
    return limits.document


def is_below_view(path: str) -> bool:
    """Whether an address belongs to a Hub-compatible view, whose clients expect the Hub's error format."""
    return path.removeprefix("/").partition("/")[0] in VIEWS


def is_commit(path: str) -> bool:
    """Whether an address is that of a commit of a Hub client."""
    return is_below_view(path) and _COMMIT.match(path) is not None


def is_part(path: str) -> bool:
    """Whether an address is that of a part which a Hub client sends by LFS."""
    return is_below_view(path) and _PART.fullmatch(path) is not None


def time_to_answer(limits: Limits, path: str) -> float:
    """How long a route may take until its response begins."""
    parts = (
        *("publishes", "bases", "uploads", "artifacts", "parents", "statistics", "checks", "diff", "rebases"),
        "combinations",
        *("gc", "fsck"),
    )
    slow = (*(f"/api/v1/{part}" for part in parts), "/compare", "/matrix", "/figures", "/admin/storage")
    return limits.plan_time if path.startswith(slow) or is_commit(path) else limits.answer_time
