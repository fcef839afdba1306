"""The renderings that this process has made: distinguishes them from those of other replicas' arithmetic."""

from __future__ import annotations

import threading
from collections import OrderedDict

from registry.reference import Path
from registry.rights import Rights


class Renderings:
    """A bounded LRU map of renderings made by this process."""

    def __init__(self, most: int = 16384) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._paths: OrderedDict[str, Path] = OrderedDict()

    def note(self, rendering: str, path: Path) -> None:
        """Note a rendering of a path."""
        with self._lock:
            self._paths[rendering] = path
            self._paths.move_to_end(rendering)
            while len(self._paths) > self._most:
                self._paths.popitem(last=False)

    def knows(self, rendering: str, rights: Rights) -> bool:
        """Whether it was made here, of a path that these rights see."""
        with self._lock:
            path = self._paths.get(rendering)
        return path is not None and rights.sees(path)
