"""Trials with requests: random ranges and conditions on every view of a service, held against the whole files."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from registry.reference import Path as TreePath
from registry.schemas.protocol import VIEWS
from registry.services.local import LocalRegistry
from tests.trials.scene import NAMES, Scene

BROKEN: Final = ("bytes=", "bytes=-", "bytes=9-2", "bytes=a-b", "rows=0-1", "bytes=0-0,2-3", "bytes=--1", "bytes=1-2x")


@dataclass(frozen=True)
class Served:
    """A file of a view, with the bytes that it must have."""

    url: str
    data: bytes


def grow(scene: Scene) -> list[str]:
    """Publish a path of three adapters, merged and composed by the service; their references."""
    registry = scene.opened()
    try:
        path, made = "net", []
        for name, folder in zip(NAMES, scene.adapters, strict=False):
            path = f"{path}/{name}"
            made.append(registry.publish(folder, path).revision.reference)
        return made
    finally:
        registry.close()


def served(registry: LocalRegistry, references: list[str]) -> Iterator[Served]:
    """Every file of every view, with the bytes that this process computes."""
    for view, kind in VIEWS.items():
        for reference in references:
            path, number = reference.split("@")
            repo = TreePath.parse(path).repo_id
            with registry.artifact(reference, kind=kind) as artifact:
                for name, file in artifact.files.items():
                    yield Served(f"/{view}/{repo}/resolve/r{number}/{name}", file.read())


def held_against(scene: Scene, references: list[str], url: str, seed: int, seconds: float) -> int:
    """Ask the service at ``url``, and compare with what this process computes; how many requests."""
    registry = scene.opened()
    try:
        with httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client:
            return ask(client, list(served(registry, references)), seed, seconds)
    finally:
        registry.close()


def ask(client: httpx.Client, files: list[Served], seed: int, seconds: float) -> int:
    """Ask at random and compare; how many requests."""
    draw, ends, asked = random.Random(seed), time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        file, asked = draw.choice(files), asked + 1
        form = draw.randrange(4)
        if form == 0:
            answer = client.get(file.url, headers={"Range": draw.choice(BROKEN)})
            assert (answer.status_code, answer.content) == (200, file.data), (seed, file.url)
        elif form == 1:
            whole = client.get(file.url)
            assert (whole.status_code, whole.content) == (200, file.data), (seed, file.url)
            again = client.get(file.url, headers={"If-None-Match": whole.headers["etag"]})
            assert (again.status_code, again.content) == (304, b""), (seed, file.url)
        else:
            _ask_range(client, file, draw, seed)
    return asked


def _ask_range(client: httpx.Client, file: Served, draw: random.Random, seed: int) -> None:
    size = len(file.data)
    start, length = draw.randrange(size + 20), int(2 ** draw.uniform(0, 20))
    header, start, stop = draw.choice(
        [
            (f"bytes={start}-{start + length - 1}", start, start + length),
            (f"bytes={start}-", start, size),
            (f"bytes=-{length}", max(size - length, 0), size),
            (f"bytes={start}-{10**30}", start, size),
        ]
    )
    answer = client.get(file.url, headers={"Range": header})
    if start >= size:
        assert answer.status_code == 416, (seed, file.url, header)
        return
    stop = min(stop, size)
    assert (answer.status_code, answer.content) == (206, file.data[start:stop]), (seed, file.url, header)
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}", (seed, file.url, header)
