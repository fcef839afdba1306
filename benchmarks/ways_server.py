"""A Hub that takes whatever a client pushes and keeps nothing, so that only the client's own work is measured.

``/regular`` asks for files within the commit, ``/large`` by LFS or Xet, as the client likes. ``/taken`` tells how many
bytes came so far. Prints its port.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_PIECE: Final = 1 << 20
_KEPT: Final = 1 << 22  # bytes of a body that is looked at
_COMMIT: Final = "0" * 40
_TAKEN: Final[list[int]] = []  # lengths of bodies


class Taker(BaseHTTPRequestHandler):
    """Answers as the Hub's contract has it, as far as a push of one folder goes."""

    protocol_version = "HTTP/1.1"

    def _take(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body, left = b"", length
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            left -= len(piece)
            body += piece if length < _KEPT else b""
        path = self.path.partition("?")[0]
        if path == "/taken":
            return self._say(200, sum(_TAKEN))
        _TAKEN.append(length)
        for name, answer in _ANSWERS.items():
            if name in path:
                return self._say(200, answer(self._place(path), body))
        return self._say(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = do_PUT = _take  # noqa: N815 - the names that the library calls

    def _place(self, path: str) -> str:
        return f"http://{self.headers['host']}/{path.split('/')[1]}"

    def _say(self, status: int, document: Any, headers: Mapping[str, str] = {}) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"ETag": '"x"', **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _preupload(place: str, body: bytes) -> Any:
    def mode(file: Mapping[str, Any]) -> str:
        return "lfs" if place.endswith("/large") and file["path"].endswith(".safetensors") else "regular"

    return {
        "files": [
            {"path": file["path"], "uploadMode": mode(file), "shouldIgnore": False, "oid": None}
            for file in json.loads(body)["files"]
        ]
    }


def _batch(place: str, body: bytes) -> Any:
    objects = [
        {"oid": one["oid"], "size": one["size"], "actions": {"upload": {"href": f"{place}/bytes/{one['oid']}"}}}
        for one in json.loads(body)["objects"]
    ]
    return {"transfer": "basic", "objects": objects}


def _xet_token(place: str, _body: bytes) -> Any:
    return {"casUrl": f"{place}/xet", "exp": int(time.time()) + 3600, "accessToken": "t"}


_ANSWERS: Final[Mapping[str, Callable[[str, bytes], Any]]] = {
    "/api/whoami": lambda *_: {"name": "x", "auth": {}},
    "/api/repos/create": lambda place, _: {"url": f"{place}/hf/models/a/b"},
    "/preupload/": _preupload,
    "/objects/batch": _batch,
    "/bytes/": lambda *_: {},
    "/xet-write-token/": _xet_token,
    "/v1/xorbs/": lambda *_: {"was_inserted": True},
    "/v1/shards": lambda *_: {"result": 1},
    "/commit/": lambda place, _: {"commitUrl": f"{place}/hf/models/a/b/commit/{_COMMIT}", "commitOid": _COMMIT},
}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    print(server.server_address[1], flush=True)
    server.serve_forever()
