"""Warnings, which clients print before an error: where that error may not have the reason, and nowhere else."""

from __future__ import annotations

import httpx

from tests.kit.library import Library

WARNING = "x-hf-warning"


def test_clients_are_warned_of_what_they_may_never_print(shelf_service: tuple[Library, httpx.Client]) -> None:
    """Their command prints an error of its own where it knows the code; a warning it prints before."""
    library, client = shelf_service
    library.registry.retract("tiny/a@1", reason="poisoned;\nséance " + "x" * 1500)
    for address in ("/hf/tiny/a/resolve/r1/config.json", "/hf/api/models/tiny/a/revision/prod"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, address)
            topic, _, sentence = answer.headers[WARNING].partition("; ")
            assert topic == "retracted tiny/a"
            assert sentence == answer.headers["x-error-message"]
            assert "poisoned; s?ance" in sentence
    assert client.get("/hf-lora/api/models/tiny/a.x").headers[WARNING].startswith("retracted tiny/a.x; ")
    stranger = {"Authorization": "Bearer reg_stranger"}
    for address, topic in (
        ("/api/models/tiny/a", "bad_token tiny/a"),
        ("/ti;ny/%0Aa%0A/resolve/main/x", "bad_token ti?ny/ a"),
        (f"/tiny/{'a' * 3000}/resolve/main/x", f"bad_token tiny/{'a' * 241}"),
        ("/api/whoami-v2", "bad_token"),
    ):
        answer = client.get(f"/hf{address}", headers=stranger)
        assert answer.headers[WARNING] == f"{topic}; {answer.headers['x-error-message']}"


def test_what_is_only_not_there_is_no_warning(reader: httpx.Client) -> None:
    """Clients ask whether something exists, and are answered that it doesn't."""
    for method, address in (
        ("GET", "/api/models/tiny/q"),
        ("GET", "/api/models/none/a"),
        ("GET", "/api/models/tiny/a/revision/nothing"),
        ("GET", f"/api/models/tiny/a/revision/{'0' * 40}"),
        ("GET", "/api/models/tiny/a/revision/feature%2Fx"),
        ("HEAD", "/tiny/a/resolve/main/nothing.json"),
        ("HEAD", "/tiny/a/resolve/r9/config.json"),
        ("GET", "/api/models"),
    ):
        assert WARNING not in reader.request(method, f"/hf{address}").headers
