"""By which way weights come is chosen by their size and by what the client tells of itself."""

from __future__ import annotations

import base64
import re

import pytest
from huggingface_hub.utils._headers import build_hf_headers

from registry.schemas.protocol import HUB_ORIGIN
from registry.services.pushing.repo import LEAST_BY_LFS, MOST_INLINE
from tests.hub.writing.conftest import PAIR, Pushing, repo_of

_OURS = f"; origin/{HUB_ORIGIN}"


@pytest.mark.parametrize(
    ("agent", "known"),
    [
        ("unknown/None; hf_hub/0.36.2; python/3.11.7; torch/2.13.0", True),
        ("unknown/None; hf_hub/1.19.0.dev0; python/3.11.7", True),
        ("unknown/None; hf_hub/1.20.0; python/3.11.7", False),
        ("peft/0.21; hf_hub/2.4.0; python/3.11.7", False),
        ("peft/0.21; hf_hub/2.4.0; python/3.11.7; origin/other-registry", False),
        (f"peft/0.21; hf_hub/2.4.0; python/3.11.7; origin/x{HUB_ORIGIN}", False),
        (f"peft/0.21; hf_hub/2.4.0; python/3.11.7{_OURS}", True),
        (f"peft/0.21; hf_hub/2.4.0{_OURS}; agent/x", True),
        (f"curl/8{_OURS}", False),
        ("hf_hub/1; python", False),
        ("", False),
    ],
)
def test_lfs_is_for_clients_that_are_known_to_use_it(pushing: Pushing, agent: str, known: bool) -> None:
    name = pushing.name()
    for size in (LEAST_BY_LFS - 1, LEAST_BY_LFS, MOST_INLINE, MOST_INLINE + 1):
        files = [{"path": one, "sample": base64.b64encode(b"x").decode(), "size": size} for one in PAIR[1:]]
        with pushing.client() as client:
            address = f"/api/models/{repo_of(name)}/preupload/main"
            answer = client.post(address, json={"files": files}, headers={"user-agent": agent})
        if size > MOST_INLINE and not known and re.search(r"hf_hub/\d+\.", agent):
            # Else, with hf_xet, it hashes all of it and ends in "404" at xet-write-token.
            said = answer.headers["x-error-message"]
            assert (answer.status_code, answer.json()["error"]) == (422, said)
            assert said in answer.headers["x-hf-warning"]
            assert f"{size} bytes: from 256 MiB on weights go by LFS" in said
            assert f"HF_HUB_DISABLE_XET=1 and HF_HUB_USER_AGENT_ORIGIN={HUB_ORIGIN}" in said
            continue
        (told,) = answer.json()["files"]
        by_lfs = size > MOST_INLINE or (known and size >= LEAST_BY_LFS)
        assert told["uploadMode"] == ("lfs" if by_lfs else "regular")
        warned = "HF_HUB_DISABLE_XET=1" in answer.headers.get("x-hf-warning", "")
        assert warned == (size > MOST_INLINE and not known)


def test_the_client_says_its_version_as_it_is_read_here() -> None:
    assert "; hf_hub/2." in build_hf_headers()["user-agent"]


def test_who_insists_on_xet_is_told_what_to_set(pushing: Pushing) -> None:
    """And not that there is no such address: the route comes before the one that takes every address."""
    with pushing.client() as client:
        answer = client.get(f"/api/models/{repo_of(pushing.name())}/xet-write-token/main")
    assert answer.status_code in {400, 422}
    assert "HF_HUB_DISABLE_XET=1" in answer.json()["error"]
