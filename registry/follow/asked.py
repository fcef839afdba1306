"""What a follower is asked for: names that can be followed, and a sink or engines, a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from registry.errors import UsageError
from registry.follow.endpoint import Endpoint, addresses, check_url
from registry.follow.engines import EngineSink
from registry.follow.folder import FolderSink
from registry.follow.plugin import PluginSink, has_plugin
from registry.follow.revisions import Revisions
from registry.follow.s3 import S3Sink
from registry.follow.sglang import Sglang
from registry.follow.sinks import Sink
from registry.follow.vllm import Vllm
from registry.reference import NamePattern, Reference
from registry.schemas.followed import MOST_NAMES


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


SINKS: Final[Mapping[str, Callable[[str], Sink | Engines]]] = {
    "folder": FolderSink,
    "s3": S3Sink,
    "vllm": partial(Engines, "vllm"),
    "sglang": partial(Engines, "sglang"),
}
"""By the word before ``=``: each makes its sink of the text after it, or one sink for each engine at an address."""


def sink_of(text: str) -> Sink | Engines:
    """The sink that ``--to`` names, or the engines.

    Raises:
        UsageError: it names none.
    """
    kind, equals, value = text.partition("=")
    address = value if kind == "s3" else text
    if address.startswith("s3://"):
        raise UsageError(f"--to {text!r} is an address; a bucket is named as --to s3={address.removeprefix('s3://')}.")
    if not equals or not value or kind not in SINKS:
        raise UsageError(
            f"--to {text!r} names no place to bring revisions to: folder=DIR, s3=BUCKET/PREFIX, vllm=URL,folder=DIR or "
            "sglang=URL,folder=DIR is expected."
        )
    return SINKS[kind](value)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The base models of the names, refusing what can't be followed before anything is done.

    Raises:
        UsageError: a name is malformed, or names a base model, or whatever is newest; or they are too many.
    """
    bases: dict[str, None] = {}
    for name in names:
        if "*" in name:
            bases[NamePattern.parse(name).base] = None
            continue
        reference = Reference.parse(name)
        if reference.path.is_base:
            raise UsageError(f"{name} is a base model, of which there is nothing to follow; name {name}/NAME@TAG.")
        if str(reference) == str(reference.path):
            raise UsageError(
                f"{name} is whatever is published last, checked or not; follow a tag, such as {name}@prod, or a "
                f"revision, such as {name}@3."
            )
        bases[reference.path.base] = None
    if not names or len(names) + len(bases) > MOST_NAMES:
        raise UsageError(
            f"{len(names)} names on {len(bases)} base models are given to follow: 1 to {MOST_NAMES} together are "
            "expected, and a pattern is one."
        )
    return tuple(bases)
