"""The web pages as a browser without scripts sees them."""

from __future__ import annotations

import re
from typing import Any

import httpx

PEOPLE = {"Accept": "text/html,application/xhtml+xml"}


class Visitor:
    """A client that keeps cookies, shows where it is sent to, and sends forms as browsers do. Close it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = httpx.Client(base_url=address, headers=PEOPLE, timeout=120)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, **more)

    def token(self, page: httpx.Response) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
        assert found is not None, page.text
        return found[1]

    def send(
        self, path: str, fields: dict[str, str], *, origin: str | None = "own", token: str | None = "own"
    ) -> httpx.Response:
        if token == "own":
            token = self.token(self.get("/sign-in"))
        data = dict(fields) if token is None else {"form_token": token, **fields}
        headers = {} if origin is None else {"Origin": self.address if origin == "own" else origin}
        return self.client.post(path, data=data, headers=headers)

    def sign_in(self, secret: str, **fields: str) -> httpx.Response:
        return self.send("/sign-in", {"token": secret, **fields})
