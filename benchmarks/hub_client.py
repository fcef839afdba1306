"""A client that only drains: what comes out of a socket is counted and dropped, so that the server is measured."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_BUFFER = 4 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Drained:
    """One answer: seconds to its first and to its last byte, and how many bytes its body had."""

    first: float
    seconds: float
    size: int


def drain(url: str, *, start: int | None = None, stop: int | None = None) -> Drained:
    """GET a URL, whole or the bytes ``start`` to ``stop``, on a connection of its own; without a length, to its end.

    Raises:
        SystemExit: the answer is not a file, or ends early.
    """
    address = urlsplit(url)
    wanted = "" if start is None or stop is None else f"Range: bytes={start}-{stop - 1}\r\n"
    head = f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n{wanted}Connection: close\r\n\r\n"
    buffer = bytearray(_BUFFER)
    with socket.create_connection((address.hostname or "", address.port or 80), timeout=300) as connection:
        began = time.perf_counter()
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            count = connection.recv_into(buffer)
            if not count:
                raise SystemExit(f"{url} ended in its headers: {answer!r}")
            answer += bytes(buffer[:count])
        headers, _, body = answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(headers)
        if headers.split(b" ", 2)[1] not in {b"200", b"206"}:
            raise SystemExit(f"{url} was answered with {headers.decode(errors='replace')}")
        size, got, first = int(length[1]) if length else None, len(body), time.perf_counter() - began if body else None
        while size is None or got < size:
            count = connection.recv_into(buffer)
            if not count and size is None:
                break
            if not count:
                raise SystemExit(f"{url} ended after {got} of {size} bytes")
            first = first if first is not None else time.perf_counter() - began
            got += count
    return Drained(first or 0.0, time.perf_counter() - began, got)


def at_once(urls: list[str]) -> tuple[float, int]:
    """Drain all at the same time; seconds until the last byte of all, and bytes."""
    found: list[Drained] = []
    threads = [threading.Thread(target=lambda url=url: found.append(drain(url))) for url in urls]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) != len(urls):
        raise SystemExit(f"only {len(found)} of {len(urls)} clients got their file")
    return time.perf_counter() - began, sum(one.size for one in found)


def main() -> None:
    """Drain the URLs given, all at once; prints a JSON line."""
    if len(sys.argv) == 2:
        one = drain(sys.argv[1])
        print(json.dumps({"seconds": one.seconds, "first": one.first, "size": one.size}))
    else:
        seconds, size = at_once(sys.argv[1:])
        print(json.dumps({"seconds": seconds, "size": size}))


if __name__ == "__main__":
    main()
