"""What other tools call their commands, options and values, and what does the same here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from typer.core import TyperGroup

from registry.errors import UsageError

_RENAME: Final = "`registry rename PATH NAME` gives an adapter and everything under it another last name"
_DELETE: Final = "`registry delete REF` deletes one revision, `registry delete -r PATH` everything at and under a path"
_LIST: Final = "`registry tree` lists the adapters, `registry base list` the base models"
_ADD: Final = "`registry publish DIR PATH` adds an adapter, `registry base add NAME DIR` a base model"
_MAKE: Final = "the first `registry base add NAME DIR` creates a registry"
_PATHS: Final = f"a path is there once something was published to it, and {_ADD}"
_FETCH: Final = "`registry fetch REF -o DIR` writes the weights of a revision into a folder"
_MERGED: Final = "`registry fetch REF --as merged -o DIR` writes the merged model into a folder"
_SHOW: Final = "`registry show REF` shows a revision or a base model"
_LOG: Final = "`registry log PATH` lists the revisions of an adapter"
_DIFF: Final = "`registry diff A B` compares two revisions"
_COPY: Final = "`registry copy REF --to URL` copies to another registry"
_SYNC: Final = f"{_COPY}, `registry follow PATH@TAG --to folder=DIR` keeps a folder at what a tag names"
_WHICH: Final = f"`registry login URL` or REGISTRY_URL chooses the registry, {_COPY}"
_UNDO: Final = "`registry delete REF --undo` restores what was deleted"
_TAG: Final = "`registry tag REF TAG` lets a tag such as prod name a revision"
_BACK: Final = (
    "`registry tag --undo PATH TAG` moves a tag back, `registry retract REF --reason TEXT` takes a revision out of use"
)
_REBASE: Final = (
    "`registry combine REF=WEIGHT... PATH` makes a revision of several, `registry rebase REF --onto REF` puts one on "
    "another revision of its parent"
)
_BRANCH: Final = "there are no branches, a revision is PATH@3 or PATH@tag, and `registry fetch REF -o DIR` writes it"
_METRICS: Final = (
    "`registry publish DIR PATH --metric acc=0.9 --annotation run=ID` keeps metrics and the id of a run with a "
    "revision, `registry annotate REF` adds them later"
)
_CHECK: Final = "`registry verify DIR` checks a fetched folder, `registry publish DIR PATH --dry-run` one to publish"
_RUN: Final = (
    "models are run by engines, and `registry check REF --engine vllm` says whether that one loads it, `registry fetch "
    "REF --for vllm -o DIR` writes what it loads"
)
_SERVE: Final = "`registry serve` starts the service, whose address opens in a browser"
_WHO: Final = "`registry login URL` stores a token, `registry whoami` shows which registry is in use, and as whom"
_CLEAN: Final = (
    "`registry gc` removes bytes that nothing needs, `registry retention set PATH` says which revisions are kept"
)
_BASE_DELETE: Final = "`registry base delete NAME` deletes a base model"
_REVOKE: Final = "`registry token revoke ID` revokes a token"
_CREATE: Final = "`registry token create --role ROLE` creates a token"
_TOKENS: Final = "`registry token list` lists the tokens"

INSTEAD: Final[dict[str, str]] = {
    **dict.fromkeys(("mv", "move"), _RENAME),
    **dict.fromkeys(("rm", "rmi", "remove", "del"), _DELETE),
    **dict.fromkeys(("ls", "list", "dir", "models", "images"), _LIST),
    **dict.fromkeys(("push", "upload", "add", "save", "commit", "register", "log-model", "upload-large-folder"), _ADD),
    **dict.fromkeys(("init", "create", "new"), _MAKE),
    **dict.fromkeys(("repo", "repos", "repo-files"), _PATHS),
    **dict.fromkeys(("pull", "download", "get", "load"), _FETCH),
    **dict.fromkeys(("artifact", "artifacts"), f"{_FETCH}, `registry publish DIR PATH` adds an adapter"),
    **dict.fromkeys(("info", "describe", "inspect", "cat"), _SHOW),
    **dict.fromkeys(("history", "versions", "revisions", "blame"), _LOG),
    "compare": _DIFF,
    **dict.fromkeys(("cp", "clone", "mirror"), _COPY),
    **dict.fromkeys(("sync", "watch"), _SYNC),
    "remote": _WHICH,
    **dict.fromkeys(("undo", "undelete", "restore"), _UNDO),
    **dict.fromkeys(("promote", "transition", "alias", "stage", "set-alias", "set-tag", "link", "release"), _TAG),
    **dict.fromkeys(("revert", "reset", "rollback", "yank", "deprecate", "unpublish"), _BACK),
    "cherry-pick": _REBASE,
    **dict.fromkeys(("branch", "checkout", "switch"), _BRANCH),
    **dict.fromkeys(("runs", "experiment", "experiments", "sweep", "log-metric", "metrics"), _METRICS),
    **dict.fromkeys(("validate", "lint", "test"), _CHECK),
    **dict.fromkeys(("run", "chat", "complete", "generate", "predict", "infer", "bench", "train", "eval"), _RUN),
    **dict.fromkeys(("start", "server", "ui", "gui", "web", "open", "dashboard"), _SERVE),
    "auth": _WHO,
    "status": "`registry whoami` shows which registry is in use, and as whom",
    **dict.fromkeys(
        ("config", "settings"),
        "settings are variables of the environment such as REGISTRY_URL, and `registry whoami` shows which registry is "
        "in use",
    ),
    **dict.fromkeys(("prune", "clean", "cleanup"), _CLEAN),
    **dict.fromkeys(("merge", "convert"), _MERGED),
    "compose": "`registry fetch REF -o DIR` writes the composed adapter into a folder",
    "find": "`registry search TEXT` finds revisions",
    **dict.fromkeys(
        ("cache", "scan-cache", "delete-cache"),
        "what `registry fetch` writes without -o is in the folder REGISTRY_CACHE_DIR, at most REGISTRY_CACHE_SIZE of "
        "it, and may be deleted",
    ),
    **dict.fromkeys(
        ("ps", "system"),
        "`registry health` shows how a service is, `registry jobs` what it works at, `registry du` sizes",
    ),
    **dict.fromkeys(("quantize", "quantise"), "nothing is quantised here, and " + _MERGED + " to quantise"),
    **dict.fromkeys(("delete-tag", "remove-tag"), "`registry untag PATH TAG` removes a tag"),
    "logs": "`registry events` lists what happened, `registry log PATH` the revisions of an adapter",
    "bases": "`registry base list` lists the base models",
    "tokens": _TOKENS,
    **dict.fromkeys(("user", "users"), _CREATE),
    "db migrate": "`registry db upgrade` brings the database to the schema of this version",
    "db init": f"{_MAKE}, with its database",
    "base update": "a base model is never changed, and `registry base add NAME DIR` adds another",
    **dict.fromkeys(
        ("base fetch", "base pull", "base download", "base get"), "`registry fetch NAME --as merged -o DIR` writes it"
    ),
    **dict.fromkeys(("base push", "base publish", "base upload", "base new"), "`registry base add NAME DIR` adds one"),
    "base tag": "a base model has no revisions and no tags",
    "help": "`registry --help` lists the commands",
    "version": "`registry --version` prints the version",
    **dict.fromkeys(("base rm", "base remove"), _BASE_DELETE),
    "base mv": "`registry base rename NAME NEW` gives a base model another name",
    **dict.fromkeys(("base show", "base info"), "`registry show NAME` shows a base model"),
    "base ls": "`registry base list` lists the base models",
    **dict.fromkeys(("token delete", "token rm", "token remove"), _REVOKE),
    **dict.fromkeys(("token add", "token new"), _CREATE),
    "token ls": _TOKENS,
}
"""By the words after ``registry``."""

SPELLINGS: Final[dict[str, str]] = {"materialize": "materialise"}
"""Commands that are accepted by another spelling, too."""

_EXTRA: Final[dict[str, str]] = {
    "registry fetch": "One reference is fetched at a time; give the folder to write to with -o DIR.",
    "registry show": "Write a revision as one word: PATH@3 or PATH@tag.",
    "registry search": "Put several words to find in quotes.",
    "registry publish": (
        "One folder goes to one path; give a message with -m TEXT, a tag with --tag TAG, a metric with --metric "
        "NAME=NUMBER."
    ),
    "registry annotate": "Give --metric NAME=NUMBER, --annotation NAME=TEXT or -m TEXT.",
    "registry base list": "`registry show NAME` shows one.",
    "registry delete": "One reference is deleted at a time, and with -r a path with all that is under it.",
    "registry materialise": "Give what it is materialised as with --as merged.",
    "registry rename": "A name is one word, such as new-name.",
    "registry retention set": "Give --keep-last N, --keep-every or --keep-best.",
    "registry token create": "Give --role ROLE, and the path that the token is for with --scope PATH.",
    "registry import": "Give --plan FILE to write a plan of SOURCE, --apply FILE to do what it says.",
    "registry card": "Give a file with --file FILE.",
    "registry copy": "Give the other registry with --to URL.",
    "registry retract": "Give the reason with --reason TEXT.",
    "registry tag": "A reference and a tag are expected, as in `registry tag PATH@3 prod`.",
    "registry serve": f"All of the registry is served, at --host and --port; {_RUN}.",
}
"""What a word too many may be, by command."""

_GGUF: Final = (
    "GGUF is written of a LoRA alone, by `registry fetch --for llama.cpp`; a merged model is converted with "
    "llama.cpp's convert_hf_to_gguf.py"
)
_OTHER_ENGINE: Final = (
    "Of others nothing is known: most load the folder of PEFT that `registry fetch` writes, or the model of --as merged"
)
_QUANTISED: Final = "Nothing is quantised here, so fetch it --as merged, and quantise that with the tool of the engine"
_SHORT: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}

_VALUES: Final[dict[str, dict[str, str]]] = {
    "--dtype": {
        **{name: f"Write {short}" for name, short in _SHORT.items()},
        **dict.fromkeys(("int8", "int4", "fp8", "nf4", "4bit", "8bit"), _QUANTISED),
    },
    "--as": {
        "gguf": _GGUF,
        **dict.fromkeys(
            ("adapter", "peft"), "A composed adapter is 'lora', the files as they were published 'published'"
        ),
        **dict.fromkeys(("model", "full", "dense"), "A merged model is 'merged'"),
        **dict.fromkeys(("gptq", "awq", "bnb", "fp8"), _QUANTISED),
        "safetensors": "All of them are written as safetensors",
    },
    "--engine": {"lmstudio": _GGUF, "": _OTHER_ENGINE},
    "--role": {"owner": "Who may do everything is an 'admin'", "read": "Write reader", "write": "Write writer"},
}
_VALUES["--for"] = _VALUES["--engine"]
_VALUES["--fidelity"] = _VALUES["--dtype"]
"""What to write instead of a value, by option and value; behind '', the sentence for all others."""

_REVISION: Final = "a revision is part of the reference, as in PATH@3 or PATH@prod"
_OUT: Final = "-o DIR names the folder to write to"
_RIGHTS: Final = "who may read is said by tokens, as in `registry token create --role reader --scope PATH`"
_OF_VLLM: Final = "the registry is served, not a model, and `vllm serve` takes the options of vLLM"

_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "": {
        **dict.fromkeys(("--revision", "--rev", "--version"), _REVISION),
        "--token": "REGISTRY_TOKEN holds the token, or `registry login URL` stores one",
        **dict.fromkeys(("--endpoint", "--server", "--registry", "--tracking-uri"), "--url URL names the registry"),
        **dict.fromkeys(("--output", "--format"), "--json prints one JSON document"),
        "--repo-type": "everything here is a model, so leave it out",
        "-y": "--yes is written out",
    },
    "fetch": {
        **dict.fromkeys(("--local-dir", "--output", "--output-dir", "--out-dir", "--dir", "--dst-path"), _OUT),
        **dict.fromkeys(
            ("--include", "--exclude", "--filename"), "all files of a revision are written, so leave it out"
        ),
        "--all": "one reference is fetched at a time, and `registry copy -r --all --to URL` copies everything",
        **dict.fromkeys(
            ("--strength", "--scale", "--lora-scale", "--ratio", "--multiplier"),
            "--weight LINK=W multiplies what a link adds, as in --weight style=0.8",
        ),
        **dict.fromkeys(("--quantization", "--quantize", "--load-in-4bit"), _QUANTISED[0].lower() + _QUANTISED[1:]),
    },
    "publish": {
        **dict.fromkeys(("--revision", "--version"), "revisions are numbered as they come, and --tag TAG names one"),
        **dict.fromkeys(("--private", "--public", "--visibility"), _RIGHTS),
        **dict.fromkeys(("--commit-message", "--description", "--comment"), "-m TEXT gives the message"),
        **dict.fromkeys(
            ("--name", "--path", "--base", "--base-model"), "the path comes after the folder: BASE/name/name"
        ),
        **dict.fromkeys(
            ("--force", "--overwrite"), "nothing is overwritten, a changed folder becomes the next revision"
        ),
        "--yes": "nothing is asked, so leave it out",
        **dict.fromkeys(("--alias", "--stage"), "--tag TAG lets a tag name the revision"),
        **dict.fromkeys(("--run", "--run-id"), "--annotation run=ID keeps it"),
    },
    "base add": {
        "--copy": "the files are copied, and --link keeps hard links instead",
        "--name": "the name comes before the folder",
        "--revision": "hf:ORG/REPO@REVISION names a revision of a Hub",
        **dict.fromkeys(
            ("--quantize", "--quantization", "--load-in-4bit", "--dtype"), "the weights are kept as they are"
        ),
    },
    "base delete": dict.fromkeys(("-f", "--force"), "-r deletes the adapters on it, too"),
    "combine": {
        "--weights": "the weight of each follows it, as in PATH=0.5",
        **dict.fromkeys(("--method", "--density"), "the weighted sum is what there is, so leave it out"),
        **dict.fromkeys(("-o", "--out"), "the path of the new revision comes last"),
    },
    "delete": dict.fromkeys(
        ("-f", "--force"),
        "--with-tags deletes a revision that has tags, and --yes what -r would ask about",
    ),
    "events": {
        **dict.fromkeys(("-f", "--tail", "--watch"), "--follow goes on with what comes"),
        "--user": "--actor NAME lists what somebody did",
    },
    "fsck": dict.fromkeys(
        ("--repair", "--fix"), "it says what is damaged, and what to do about it, but changes nothing"
    ),
    "gc": dict.fromkeys(("--yes", "--all", "-f", "--force"), "it removes only what nothing needs, so leave it out"),
    "search": dict.fromkeys(("--order-by", "--sort-by"), "--sort max:acc has the largest first"),
    "tree": dict.fromkeys(("-L", "--level", "--max-depth"), "--depth N shows N levels"),
    "card": {"--set": "--file FILE replaces the card, --edit opens it in an editor"},
    "log": {
        **dict.fromkeys(("-n", "--max-count"), "--limit N lists the newest N"),
        "--oneline": "each revision has its line, so leave it out",
    },
    "tag": {
        **dict.fromkeys(("-d", "--delete"), "`registry untag PATH TAG` removes a tag"),
        **dict.fromkeys(("-l", "--list"), "`registry tags PATH` lists the tags"),
        **dict.fromkeys(("-f", "--force"), "a tag moves without it; --if @3 moves it only from there"),
        "-m": "a tag has no message, but `registry annotate REF -m TEXT` changes that of a revision",
    },
    "login": dict.fromkeys(
        ("-u", "-p", "--username", "--password"), "there are no passwords, and --token - reads a token from stdin"
    ),
    "serve": dict.fromkeys(
        ("--enable-lora", "--lora-modules", "--model", "--tensor-parallel-size", "--max-model-len", "--max-lora-rank"),
        _OF_VLLM,
    ),
}
"""What to use instead of an option, by command and option; behind '', of all commands."""

# As the parser writes them, in all its versions.
_WORD_TOO_MANY: Final = "Got unexpected extra argument"
_VALUE: Final = re.compile(
    r"Invalid value for '(?:-\w, |-\w / )?(--[a-z-]+)'(?: / '[^']*')?: '([^']*)' is not one of (.*)\."
)
_OPTION: Final = re.compile(r"No such option: (-[\w-]+)")
_QUOTED: Final = re.compile(r"'([^']*)'")
_MISSING: Final = re.compile(r"Missing (?:argument|option) '([^']*)'\.?")
_OF_ERROR: Final = re.compile(r"Invalid value for '--max-error'.*number.*")
_LISTED: Final = 8  # options; more would bury the sentence
_NEAR: Final = 0.75
"""How similar an existing word must be to a given one to be proposed."""


def near(word: str, words: Any) -> str:
    """A sentence that proposes those of some words that are like one; empty: none is."""
    *others, last = get_close_matches(word, list(words), n=3, cutoff=_NEAR) or [""]
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def instead(command: str, message: str, takes: Iterable[Any] = ()) -> str:
    """What the parser of a command says to a word, a value or an option, with what is called so here.

    Args:
        command: as it was called, such as ``registry base add``.
        message: one line.
        takes: the arguments and options of the command, as the parser has them.
    """
    if message.startswith(_WORD_TOO_MANY):
        return f"{message.rstrip('.')}. {_EXTRA.get(command) or _usage(command, takes)}".rstrip()
    if (missing := _MISSING.fullmatch(message)) is not None:
        return f"{message} {_usage(command, takes, missing[1])}".rstrip()
    if (value := _VALUE.fullmatch(message)) is not None:
        option, given, allowed = value.groups()
        return f"{message} {_of_value(option, given.lower(), _QUOTED.findall(allowed))}".rstrip()
    if (found := _OPTION.match(message)) is not None:
        name = found[1]
        told = _OPTIONS.get(command.removeprefix("registry "), {}).get(name) or _OPTIONS[""].get(name)
        if told is not None:
            return f"There is no option {name}: {told}."
        names = sorted({word for one in takes for word in one.opts if word.startswith("--")})
        few = f" The options are: {', '.join(names)}." if 0 < len(names) <= _LISTED else ""
        return f"There is no option {name}.{near(name, names) or few}"
    # Of the library that newer versions of the parser read numbers with.
    told = re.sub(r"Input should be ([^,]*)(, unable to.*)?$", r"it should be \1", message)
    return f"{told.rstrip('.')}; 0.05 is 5 %." if _OF_ERROR.fullmatch(message) else told


def _usage(command: str, takes: Iterable[Any], missing: str = "") -> str:
    """A sentence with the arguments of a command, of which ``missing`` is needed; it may be an option, too."""
    words = [one.metavar or one.name.upper() for one in takes if one.param_type_name == "argument"]
    needed = {one.metavar for one in takes if one.param_type_name == "argument" and one.required} | {missing}
    of_option = [f"{missing} {one.metavar}" for one in takes if missing in one.opts and one.metavar]
    usage = " ".join([command, *(word if word in needed else f"[{word}]" for word in words), *of_option])
    return f"`{usage}` is expected." if takes else ""


def _of_value(option: str, given: str, allowed: list[str]) -> str:
    meant = next((one for one in allowed if given.startswith(one)), None)
    if meant is not None:
        return f"Write {meant}."
    of_option = _VALUES.get(option, {})
    told = of_option.get(given) or (None if near(given, allowed) else of_option.get(""))
    return f"{told}." if told else near(given, allowed).strip()


class Group(TyperGroup):
    """Commands of which an unknown one is refused with what does the same."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args:
            args = [SPELLINGS.get(args[0], args[0]), *args[1:]]
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            words = " ".join([*ctx.command_path.split()[1:], args[0]])
            if words in INSTEAD:
                raise UsageError(f"There is no command {words!r}: {INSTEAD[words]}.")
            if "/" in args[0]:
                raise UsageError(f"A command comes before {args[0]!r}: `{ctx.command_path} --help` lists them.")
            how = near(args[0], self.commands) or f" `{ctx.command_path} --help` lists them."
            raise UsageError(f"There is no command {words!r}.{how}")
        return super().resolve_command(ctx, args)
