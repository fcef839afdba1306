"""Commands as other tools name them, and what does the same here."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

from registry.errors import UsageError

_RENAME: Final = "`registry rename PATH NAME` gives an adapter and everything under it another last name"
_DELETE: Final = "`registry delete REF` deletes one revision, `registry delete -r PATH` everything at and under a path"
_LIST: Final = "`registry tree` lists the adapters, `registry base list` the base models"
_ADD: Final = "`registry publish DIR PATH` adds an adapter, `registry base add NAME DIR` a base model"
_MAKE: Final = "the first `registry base add NAME DIR` creates a registry"
_FETCH: Final = "`registry fetch REF -o DIR` writes the weights of a revision into a folder"
_SHOW: Final = "`registry show REF` shows a revision or a base model"
_LOG: Final = "`registry log PATH` lists the revisions of an adapter"
_COPY: Final = "`registry copy REF --to URL` copies to another registry"
_UNDO: Final = "`registry delete REF --undo` restores what was deleted"
_BASE_DELETE: Final = "`registry base delete NAME` deletes a base model"
_REVOKE: Final = "`registry token revoke ID` revokes a token"
_CREATE: Final = "`registry token create --role ROLE` creates a token"

INSTEAD: Final[dict[str, str]] = {
    **dict.fromkeys(("mv", "move"), _RENAME),
    **dict.fromkeys(("rm", "remove", "del"), _DELETE),
    **dict.fromkeys(("ls", "list", "dir"), _LIST),
    **dict.fromkeys(("push", "upload", "add", "save"), _ADD),
    **dict.fromkeys(("init", "create", "new"), _MAKE),
    **dict.fromkeys(("pull", "download", "get", "load", "export"), _FETCH),
    **dict.fromkeys(("info", "describe", "inspect", "cat"), _SHOW),
    **dict.fromkeys(("history", "versions", "revisions"), _LOG),
    **dict.fromkeys(("cp", "clone", "sync", "mirror"), _COPY),
    **dict.fromkeys(("undo", "undelete", "restore"), _UNDO),
    "merge": "`registry fetch REF --as merged -o DIR` writes the merged model into a folder",
    "compose": "`registry fetch REF -o DIR` writes the composed adapter into a folder",
    "find": "`registry search TEXT` finds revisions",
    "status": "`registry whoami` shows which registry is in use, and as whom",
    "start": "`registry serve` starts the service",
    "check": "`registry verify DIR` checks a fetched folder, `registry fsck` the whole registry",
    "bases": "`registry base list` lists the base models",
    "tokens": "`registry token list` lists the tokens",
    "tags": _LOG,
    "help": "`registry --help` lists the commands",
    "version": "`registry --version` prints the version",
    **dict.fromkeys(("base rm", "base remove"), _BASE_DELETE),
    "base mv": "`registry base rename NAME NEW` gives a base model another name",
    **dict.fromkeys(("base show", "base info"), "`registry show NAME` shows a base model"),
    "base ls": "`registry base list` lists the base models",
    **dict.fromkeys(("token delete", "token rm", "token remove"), _REVOKE),
    **dict.fromkeys(("token add", "token new"), _CREATE),
    "token ls": "`registry token list` lists the tokens",
}
"""By the words after ``registry``."""

SPELLINGS: Final[dict[str, str]] = {"materialize": "materialise"}
"""Commands that are accepted by another spelling, too."""

EXTRA: Final[dict[str, str]] = {
    "registry fetch": "One reference is fetched at a time; give the folder to write to with -o DIR.",
    "registry show": "Write a revision as one word: PATH@3 or PATH@tag.",
    "registry search": "Put several words to find in quotes.",
    "registry publish": "Give a message with -m TEXT, a tag with --tag TAG.",
    "registry copy": "Give the other registry with --to URL.",
    "registry retract": "Give the reason with --reason TEXT.",
}
"""What a word too many may be, by command."""

_GGUF: Final = (
    "GGUF is not written: fetch it --as merged, or as the LoRA that it is, and convert it with llama.cpp's "
    "convert_hf_to_gguf.py or convert_lora_to_gguf.py"
)
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}

VALUES: Final[dict[tuple[str, str], str]] = {
    **{("--dtype", name): f"Write {short}" for name, short in _DTYPES.items()},
    ("--as", "gguf"): _GGUF,
    ("--as", "adapter"): "A composed adapter is 'lora', the files as they were published 'published'",
    ("--as", "model"): "A merged model is 'merged'",
    **dict.fromkeys((("--engine", "llama.cpp"), ("--engine", "ollama")), _GGUF),
    ("--role", "owner"): "Who may do everything is an 'admin'",
}
"""What to write instead of a value, by option and value."""

OPTIONS: Final[dict[tuple[str, str], str]] = {
    ("registry card", "--set"): "--file FILE replaces the card, --edit opens it in an editor",
}
"""What to use instead of an option, by command and option."""


class Group(TyperGroup):
    """Commands of which an unknown one is refused with what does the same."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args:
            args = [SPELLINGS.get(args[0], args[0]), *args[1:]]
        if args and args[0] not in self.commands:
            words = " ".join([*ctx.command_path.split()[1:], args[0]])
            if words in INSTEAD:
                raise UsageError(f"There is no command {words!r}: {INSTEAD[words]}.")
        return super().resolve_command(ctx, args)
