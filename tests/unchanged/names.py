"""Values that another machine or version of transformers makes otherwise, and what stands for them in documents.

Renderings, ETags and commit ids hold a fingerprint of the machine's arithmetic; what is planned below a base model that
transformers knows holds the digest of a table that names its version. Documents are compared with labels in the place
of such values, and the values themselves only where the fingerprint, or the version, is the recorded one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?)?")
_HEX: Final = re.compile(r"(sha256:)?\b[0-9a-f]{12,64}\b")
_LEFT_OUT: Final = {"id", "numerics", "python", "request", "service_version", "torch", "use", "version", "versions"}
"""Keys of documents that say who made them, a number that was drawn, or counts that are written now and then."""
_SENTENCES: Final = {"detail", "title"}
"""Keys of a problem that hold sentences for people, which may be worded better: only that they are there counts."""


def digest_of(data: bytes) -> str:
    """Enough of the sha256 to tell one from another."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass
class Names:
    """What stands for what."""

    places: dict[str, str] = field(default_factory=dict)  # texts that stand anywhere in other texts
    hexes: dict[str, str] = field(default_factory=dict)  # digests, ETags and commit ids

    def place(self, value: str, label: str) -> None:
        """Note an address, a folder or another text."""
        self.places[value] = f"<{label}>"

    def hex(self, value: str, label: str) -> None:
        """Note a digest, also in the short form that screens show, or another name in hex digits."""
        for spelt in (value, value[7:19]) if value.startswith("sha256:") else (value,):
            self.hexes.setdefault(spelt, f"<{label}>")

    def text(self, text: str) -> str:
        """The text with a label for each value, and without times."""
        for value in sorted(self.places, key=len, reverse=True):
            text = text.replace(value, self.places[value])
        return _TIME.sub("<time>", _HEX.sub(lambda found: self.hexes.get(found[0], found[0]), text))

    def document(self, document: Any) -> bytes:
        """The document as canonical JSON, likewise."""
        return json.dumps(self._plain(document), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            wordless = _SENTENCES if value.keys() >= {"code", "status", *_SENTENCES} else set()
            return {
                self.text(key): "<sentence>" if key in wordless else self._plain(one)
                for key, one in value.items()
                if key not in _LEFT_OUT
            }
        if isinstance(value, list):
            return [self._plain(one) for one in value]
        if isinstance(value, float):
            return float(f"{value:.6g}")  # figures of a truncation
        return self.text(value) if isinstance(value, str) else value
