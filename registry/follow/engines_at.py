"""``--to vllm=URL,folder=DIR``: which engines are meant, and the sink that each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from registry.errors import UsageError
from registry.follow.endpoint import Endpoint, addresses, check_url
from registry.follow.engines import EngineSink
from registry.follow.plugin import PluginSink, has_plugin
from registry.follow.revisions import Revisions
from registry.follow.sglang import Sglang
from registry.follow.vllm import Vllm


class Engines:
    """``--to vllm=URL,folder=DIR`` or ``--to sglang=URL,folder=DIR``.

    Raises:
        UsageError: the text is malformed.
    """

    def __init__(self, kind: str, text: str) -> None:
        url, comma, rest = text.partition(",")
        option, _, folder = rest.partition("=")
        if not comma or option != "folder" or not folder:
            raise UsageError(
                f"--to {kind}={text} needs the folder in which revisions lie, and which the engine sees under the same "
                f"path: --to {kind}=http://HOST:PORT,folder=DIR."
            )
        self.kind: Final = kind
        self.url: Final = check_url(url)
        self.room: Final = Revisions(folder)
        self.key: str | None = None  # the engines' API key, if they ask for one

    def found(self) -> list[str]:
        """The addresses of all engines now; raises UnavailableError."""
        return addresses(self.url)

    def endpoint(self, address: str) -> Endpoint:
        """What asks the engine at an address."""
        return Endpoint(self.url, address, self.key)

    def sink(self, endpoint: Endpoint, bases: Sequence[str]) -> EngineSink | PluginSink:
        """A sink of an engine, which is asked whether it has the plugin for one of the base models."""
        if self.kind == "sglang":
            return EngineSink(Sglang(endpoint, self.room), self.room)
        engine = Vllm(endpoint)
        if any(has_plugin(endpoint, base) for base in bases):
            return PluginSink(engine, endpoint)
        return EngineSink(engine, self.room)
