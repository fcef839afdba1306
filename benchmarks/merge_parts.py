"""CPU seconds of a real merge by part, beside those of `benchmarks.merge_floor`.

Functions of the registry are replaced by ones that count the CPU time of their thread, each without what it calls that
is counted itself. "edges" is copying of stored blocks that two reads share; "fidelity" is measuring what rounding
leaves; what is in none of them is "other": opening and planning, Python between the parts, and passing pieces on.
Counting costs about a hundredth.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from blake3 import blake3

from benchmarks import merge_floor

OF_MERGE: Final = (*merge_floor.PARTS, "edges", "fidelity", "other")
OF_STREAM: Final = (*(part for part in OF_MERGE if part not in {"hash", "write", "fidelity"}), "send")
_COUNTED: Final = {
    "registry.storage.file_objects.FileReader.read_into": "read",
    "registry.storage.reading.BlobReader.read_into": "edges",
    "registry.storage.reading.block_digests": "verify",
    "registry.storage.reading.block_digest": "verify",
    "registry.tensors.path.slot_values.SlotValues._begin": "widen",
    "registry.tensors.path.slot_values.add_product": "product",
    "registry.tensors.arithmetic.kernel.round_into": "round",
    "registry.tensors.artifacts.merged.rounded": "check",
    "registry.folders.writer._Target.put": "write",
    "registry.folders.writer._Target.sync": "write",
}
_WITH_ALL_BELOW: Final = {
    "registry.tensors.path.slot_values.SlotValues._factors": "factors",
    "registry.tensors.fidelity.meter.SlotMeter.see": "fidelity",
}


_DRAIN: Final = """
import socket, sys
connection, memory = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), bytearray(4 << 20)
while connection.recv_into(memory):
    pass
"""


class Counter:
    """CPU seconds by part, of all threads."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._own = threading.local()  # .inner: seconds of counted calls within each call under way; .alone: see `of`

    def of(self, part: str, call: Callable[..., Any], *, alone: bool = False) -> Callable[..., Any]:
        """The function, counted; ``alone``: nothing that it calls is counted elsewhere."""

        def counted(*args: Any, **named: Any) -> Any:
            if getattr(self._own, "alone", False):
                return call(*args, **named)
            inner: list[float] = self._own.__dict__.setdefault("inner", [])
            inner.append(0.0)
            self._own.alone = alone
            began = time.thread_time()
            try:
                return call(*args, **named)
            finally:
                spent = time.thread_time() - began
                self._own.alone = False
                with self._lock:
                    self._spent[part] += spent - inner.pop()
                if inner:
                    inner[-1] += spent

        return counted

    def parts(self, whole: float) -> dict[str, float]:
        """Seconds by part, given those of the process."""
        counted = {part: self._spent[part] for part in (*OF_MERGE, "send")}
        return {**counted, "other": whole - sum(self._spent.values())}


@contextmanager
def draining() -> Iterator[socket.socket]:
    """A connection to a process that reads and drops what comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", _DRAIN, str(port)]):
            connection, _ = server.accept()
            with connection:
                yield connection


@contextmanager
def counting() -> Iterator[Counter]:
    """Count what happens meanwhile."""
    from pkgutil import resolve_name

    counter = Counter()

    class Hash:
        """The hash of a file that is written."""

        def __init__(self) -> None:
            self._digest = blake3()
            self.update = counter.of("hash", self._digest.update)
            self.hexdigest = self._digest.hexdigest

    with ExitStack() as until:
        for functions, alone in ((_COUNTED, False), (_WITH_ALL_BELOW, True)):
            for name, part in functions.items():
                call = counter.of(part, resolve_name(name), alone=alone)
                # a plain function, so that it becomes a method where it replaces one
                until.enter_context(patch(name, call))
        until.enter_context(patch("registry.folders.writer.blake3", Hash))
        yield counter
