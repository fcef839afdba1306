"""What a Hub client tells of itself, as far as it decides by which way its bytes come."""

from __future__ import annotations

import re
from typing import Final

from registry.schemas.protocol import HUB_ORIGIN

_VERSION: Final = re.compile(r"(?:^|; )hf_hub/(\d{1,4})\.(\d{1,4})\.")
_ORIGIN: Final = re.compile(rf"(?:^|; )origin/{re.escape(HUB_ORIGIN)}(?:;|$)")
_INSISTS: Final = (1, 20)
"""From this version of huggingface_hub on, clients with hf_xet send large files by Xet, whatever the answer offers."""


def uses_lfs(user_agent: str) -> bool:
    """Whether a client is known to send a large file by LFS, which costs it a sixth of what base64 does.

    Version 1.20 and later say nothing of whether they will; those whose shell has what `registry env` prints will.
    """
    version = _version(user_agent)
    return version is not None and (version < _INSISTS or _ORIGIN.search(user_agent) is not None)


def may_insist_on_xet(user_agent: str) -> bool:
    """Whether a client may send a large file by Xet though it is told otherwise, and then shows no sentence of ours."""
    return _version(user_agent) is not None and not uses_lfs(user_agent)


def _version(user_agent: str) -> tuple[int, int] | None:
    found = _VERSION.search(user_agent)
    return None if found is None else (int(found[1]), int(found[2]))
