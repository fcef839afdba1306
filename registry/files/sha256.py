"""The sha256 of a stream of bytes, in one pass: what every file, blob and upload is hashed with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from registry.digest import PREFIX

CHUNK: Final = 1 << 20
"""Bytes of one step of a pass: small enough to stay in the processor's cache while it is hashed and written."""
_BUFFERS: Final = 3

Fill = Callable[[memoryview], int]
"""Fills a buffer from a stream; returns how many bytes it put there, fewer than fit only at the end."""
Each = Callable[[int, memoryview], None]
"""Gets a chunk and its offset."""


def hash_stream(fill: Fill, each: Each) -> tuple[str, int]:
    """Digest and size of a stream.

    ``each`` gets every chunk in order, valid during the call only. sha256 is the slowest part, so it
    runs in a thread of its own, up to two chunks behind; everything else runs in the caller's thread.
    """
    whole = hashlib.sha256()
    buffers = [memoryview(bytearray(CHUNK))]  # the others are made when a stream is longer
    hashing: list[Future[None] | None] = [None] * _BUFFERS
    size = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as pool:
        while True:
            turn = (size // CHUNK) % _BUFFERS
            if (before := hashing[turn]) is not None:
                before.result()
            if turn == len(buffers):
                buffers.append(memoryview(bytearray(CHUNK)))
            count = fill(buffers[turn])
            if count == 0:
                break
            chunk = buffers[turn][:count]
            if size == 0 and count < CHUNK:
                whole.update(chunk)  # a small stream is not worth a thread
            else:
                hashing[turn] = pool.submit(whole.update, chunk)
            each(size, chunk)
            size += count
            if count < CHUNK:
                break
        for future in hashing:
            if future is not None:
                future.result()
    return PREFIX + whole.hexdigest(), size
