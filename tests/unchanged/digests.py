"""Digests of what a registry hands out of the fixed set of paths: bytes, plans, commit ids, receipts, answers, screens.

Everything is asked for as users do it: by `registry.connect`, by the command line and by HTTP.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import httpx
import numpy as np

import registry
from registry.errors import RegistryError
from tests.kit.tensor_files import RawTensor, parse_tensors
from tests.unchanged.names import Names, digest_of

API: Final = "/api/v1"
VIEWS: Final = {"hf": "merged", "hf-lora": "lora", "hf-published": "published"}
AUTHOR: Final = "somebody"
TRUNCATED: Final = ("rank", "max_error")

OPTIONS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("net/a@1", {"kind": "lora", "dtype": "bf16"}),
    ("net/a/b@1", {"kind": "lora", "dtype": "fp16", "uniform": True}),
    ("net/a/b/c@1", {"kind": "lora", "since": "net/a@1"}),
    ("net/a/b/c@1", {"kind": "merged", "dtype": "bf16"}),
    ("net/dora/plain/again@1", {"kind": "lora", "since": "net/dora@1"}),
    ("net/dora/plain/again@1", {"kind": "merged", "dtype": "fp16"}),
    ("net/few@1", {"kind": "lora", "rank": 2}),
    ("net/few@1", {"kind": "lora", "max_error": 0.25, "uniform": True}),
    ("shards/a/b@1", {"kind": "merged", "dtype": "fp32"}),
    ("shards/a/b@1", {"kind": "lora", "uniform": True}),
)
"""Beside each path composed and merged."""
PUBLISHED: Final = ("net/a@1", "net/flat@1", "gpt2/a@1", "net/bad@1", "shards")

ROUTES: Final = (
    "/bases",
    "/tree",
    "/tree?path=net/a",
    "/log?path=net/a",
    "/log?path=net/bad",
    "/revisions?ref=net/a/b/c@v1.0",
    "/revisions?ref=net/flat",
    "/revisions?ref=shards",
    "/resolve?ref=net/a/b/c",
    "/resolve?ref=net/a@prod",
    "/search?text=half",
    "/search?rank=%3E2&base=net",
    "/search?metric=acc%3E0.3&tag=prod",
    "/search?target=turned",
    "/events?limit=500",
    "/protected-tags?base=net",
    "/bundles?ref=net/a/b",
    "/subtree?path=net",
    "/materialisations",
    "/whoami",
)
LISTS: Final = ("/tree/main?recursive=true", "/refs", "/commits/main")
LISTED: Final = ("net/_", "net/a", "net/a.b.c", "net/few", "shards/a.b", "gpt2/a.head")
RANGED: Final = (
    ("net/a/b/c@1 kind=merged", "model.safetensors"),
    ("net/dora/plain/again@1 kind=lora", "adapter_model.safetensors"),
    ("shards/a/b@1 kind=merged", "model-00002-of-00003.safetensors"),
)
WRONG: Final = (
    ("GET", "/nothing", None),
    ("GET", "/tree?path=net/aa", None),
    ("GET", "/log?path=net", None),
    ("GET", "/revisions?ref=net/a@9", None),
    ("GET", "/revisions?ref=Net", None),
    ("GET", "/resolve?ref=net/a@sha256:00000000", None),
    ("GET", "/artifacts?ref=net/bad", None),
    ("GET", "/artifacts?ref=net/gone@1", None),
    ("GET", "/artifacts?ref=net/few&rank=1&max_error=0.01", None),
    ("GET", "/artifacts?ref=net/a&since=net/dora", None),
    ("GET", "/search?rank=many", None),
    ("DELETE", "/revisions?ref=net/a/b@1", None),
    ("DELETE", "/revisions?ref=net/a/b/c@1", None),
    ("DELETE", "/bases?name=net", None),
    ("PUT", "/tags", {"ref": "net/a@1", "tag": "r7"}),
    ("PUT", "/tags", {"ref": "net/b@1", "tag": "good"}),
    ("POST", "/annotations", {"ref": "net", "message": "no"}),
    ("POST", "/retractions", {"ref": "net", "reason": "no"}),
    ("POST", "/revisions/undelete", {"ref": "net/half@9"}),
    ("PUT", "/protected-tags", {"base": "nets", "pattern": "prod"}),
    ("DELETE", "/tokens/0123", None),
    ("DELETE", "/tags?path=net/a&tag=nightly", None),
)
SCREENS: Final = (
    "tree",
    "tree net/a",
    "base list",
    "log net/a",
    "log net/gone",
    "show net/a/b/c",
    "show net/flat",
    "show shards",
    "resolve net/a/b/c@prod",
    "search --rank >2 --base net",
    "search nothing",
    "events --limit 100",
    "materialise --list",
    "tree nets",
    "show net/a@7",
    "show net/bad",
    "log net",
    "tag net/a@1 main",
    "delete net/a/b@1",
    "untag net/a nightly",
    "annotate net/a@1",
    "publish nowhere net/new",
    "base add net nowhere",
    "verify nowhere",
    "tree --json nets",
)


@dataclass
class Digests:
    """By what they depend on."""

    anywhere: dict[str, str] = field(default_factory=dict)
    arithmetic: dict[str, str] = field(default_factory=dict)
    table: dict[str, str] = field(default_factory=dict)
    numerics: str = ""  # the fingerprint that `arithmetic` holds for
    transformers: str = ""  # what made the tables that `table` holds for


def digests(place: Path, url: str, root: Path) -> tuple[Digests, dict[str, bytes]]:
    """Of the registry in the folder ``place``, served at ``url``; folders are written to ``root``.

    Beside the digests, what each of `Digests.anywhere` is one of.
    """
    with httpx.Client(base_url=url, timeout=120) as client, closing(registry.connect(place)) as opened:
        collecting = Collecting(place, url, root, client, opened)
        collecting.note_names()  # first: documents are made that hold them
        collecting.plans()
        collecting.files()
        collecting.receipts()
        collecting.views()
        collecting.ranges()
        collecting.answers()
    collecting.screens()
    return collecting.found, collecting.plain


@dataclass
class Collecting:
    """An open registry, and what was found of it."""

    place: Path
    url: str
    root: Path
    client: httpx.Client
    opened: Any
    names: Names = field(default_factory=Names)
    found: Digests = field(default_factory=Digests)
    plain: dict[str, bytes] = field(default_factory=dict)
    _refs: list[str] = field(default_factory=list)
    _plans: dict[str, Any] = field(default_factory=dict)

    def note_names(self) -> None:
        """What differs between runs, machines and versions of transformers."""
        self.names.place(self.url, "service")
        self.names.place(str(self.place), "place")
        self.names.place(str(self.root), "root")
        (known,) = [base for base in self._get(f"{API}/bases")["items"] if base["name"] == "gpt2"]
        self.found.transformers = known["table_source"]
        self.names.place(known["table_source"], "table source")
        self._of_table("table", known["table_digest"])
        for kept in self._get(f"{API}/materialisations")["items"]:
            self.names.place(kept["id"], "drawn")
        self._refs += [ref for base in ("net", "shards", "gpt2") for ref in self._get(f"{API}/subtree?path={base}")]
        self._plans |= {name: self._plan(name, ref, options) for name, ref, options in self._wanted()}
        for view, repo in self._repos():
            self._commits(view, repo)
        for since in sorted({options["since"] for _, options in OPTIONS if "since" in options}):
            self._parent_in_a_configuration(since)

    def _wanted(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        every = [(ref, {"kind": kind}) for ref in [*self._refs, "net", "shards"] for kind in ("lora", "merged")]
        every += [(ref, {"kind": "published"}) for ref in PUBLISHED]
        for ref, options in [*every, *OPTIONS]:
            yield " ".join([ref, *(f"{name}={value}" for name, value in options.items())]), ref, options

    def _repos(self) -> Iterator[tuple[str, str]]:
        """Views and repos: some in all views, the others in one."""
        paths = {ref.partition("@")[0].partition("/")[::2] for ref in self._refs}
        for base, below in sorted(paths | {(base, "_") for base, _ in paths}):
            repo = f"{base}/{below.replace('/', '.')}"
            yield from ((view, repo) for view in (VIEWS if repo in LISTED else ("hf-lora",)))

    def _get(self, route: str) -> Any:
        answer = self.client.get(route)
        assert answer.status_code == 200, (route, answer.text)
        return answer.json()

    def _of_table(self, name: str, value: str) -> None:
        self.found.table[name] = value
        self.names.hex(value, name)

    def _is(self, name: str, data: bytes) -> None:
        self.plain[name] = data
        self.found.anywhere[name] = digest_of(data)

    def _plan(self, name: str, ref: str, options: Mapping[str, Any]) -> Any:
        """The plan, or why there is none; its names are noted by what they depend on."""
        query = {"ref": ref} | {key: str(value).lower() for key, value in options.items()}
        plan = self.client.get(f"{API}/artifacts", params=query).json()
        if "rendering" not in plan:
            return plan
        by_table, computed = ref.startswith("gpt2"), options["kind"] != "published"
        if by_table:
            self._of_table(f"plan digest {name}", plan["plan_digest"])
        if computed:
            self.found.numerics = plan["numerics"]
        if by_table or computed:
            self.names.hex(plan["rendering"], f"rendering {name}")
            for file in plan["files"]:
                self.names.hex(file["etag"], f"etag {name} {file['path']}")
        if computed and not by_table:
            self.found.arithmetic[f"rendering {name}"] = plan["rendering"]
        return plan

    def _commits(self, view: str, repo: str) -> None:
        """The commit ids of a repo: 28 digits say what is meant, the others how bytes are made."""
        refs = self._get(f"/{view}/api/models/{repo}/refs")
        for ref in [*refs["branches"], *refs["tags"]]:
            name, commit = f"commit {view} {repo} {ref['name']}", ref["targetCommit"]
            if repo.startswith("gpt2"):
                self.found.table[name] = commit[:28]
                self.names.hex(commit, name)
            elif view == "hf-published" or repo.endswith("/_"):
                self.found.anywhere[name] = commit
            else:
                self.found.anywhere[name] = commit[:28]
                self.found.arithmetic[name] = commit
                self.names.hex(commit, f"commit {commit[:28]}")

    def _parent_in_a_configuration(self, ref: str) -> None:
        """The commit that the configuration of an adapter composed since ``ref`` names as what it stands on."""
        repo, number = ref.replace("/", ".").replace(".", "/", 1).split("@")
        info = self._get(f"/hf/api/models/{repo}/revision/r{number}")
        self.names.hex(info["sha"], f"commit {info['sha'][:28]}")

    def plans(self) -> None:
        """Of every artifact that is wanted."""
        for name, plan in self._plans.items():
            self._is(f"plan {name}", self.names.document(plan))

    def files(self) -> None:
        """Every file of every artifact, read in process."""
        for name, ref, options in self._wanted():
            try:
                artifact = self.opened.artifact(ref, **options)
            except RegistryError as error:
                self._is(f"bytes {name}", error.code.encode())  # sentences may be worded better
                continue
            with artifact:
                for path, file in artifact.files.items():
                    self._file(f"bytes {name} {path}", file.read(), truncated=bool(options.keys() & set(TRUNCATED)))

    def _file(self, name: str, data: bytes, *, truncated: bool) -> None:
        """Of truncated weights, which an SVD gives, only what no rounding changes is the same anywhere."""
        if truncated and name.endswith(".safetensors"):
            self.found.arithmetic[name] = digest_of(data)
            data = b"".join(_products(data))
        self._is(name, self.names.text(data.decode()).encode() if name.endswith(".json") else data)

    def receipts(self) -> None:
        """Of folders that were fetched in process and from the service, with what verify says of them."""
        with closing(registry.connect(self.url)) as remote:
            for where, fetching in (("local", self.opened), ("remote", remote)):
                for number, (ref, options) in enumerate((*OPTIONS[:5], ("net/flat@1", {"kind": "published"}))):
                    out = self.root / f"{where}-{number}"
                    told = fetching.fetch(ref, out, **options).model_dump(mode="json")
                    receipt = json.loads((out / "registry-receipt.json").read_text())
                    verified = fetching.verify(out).model_dump(mode="json")
                    for document in (told, receipt, verified):
                        document.pop("fidelity", None)  # figures, not names; `tests/tensors/fidelity` judges them
                    self.names.place(str(out), "out")
                    for file in told["files"]:
                        if file["path"].endswith(".json"):  # one may hold the commit of what it goes on
                            plain = self.names.text((out / file["path"]).read_text()).encode()
                            self.names.hex(file["blake3"], f"hash of {digest_of(plain)}")
                    name = f"receipt {where} {ref} {json.dumps(options)}"
                    self._is(name, self.names.document([told, receipt, verified]))

    def views(self) -> None:
        """What the views list of repos."""
        for view, repo in self._repos():
            for route in ("?blobs=true", *(LISTS if repo in LISTED and not repo.startswith("gpt2") else ())):
                answer = self.client.get(f"/{view}/api/models/{repo}{route}")
                if route.startswith("/tree") and view != "hf-published":
                    for entry in answer.json():
                        if entry["type"] == "directory":  # its id is made of the commit and its path
                            self.names.hex(entry["oid"], f"folder {entry['path']}")
                found = answer.json()
                if isinstance(found, dict):
                    found.pop("_id", None)  # of a later version
                    self._of_transformers(repo, found)
                told = [answer.status_code, found, answer.headers.get("x-error-code")]
                self._is(f"view {view} {repo}{route}", self.names.document(told))

    def _of_transformers(self, repo: str, found: Mapping[str, Any]) -> None:
        """Note the names of files that say, or are named by, which version of transformers made a table."""
        for file in found.get("siblings", ()) if repo.startswith("gpt2") else ():
            self.names.hex(file["blobId"], f"blob {file['rfilename']}")

    def ranges(self) -> None:
        """Parts of files over HTTP, of the API and of a view."""
        for name, path in RANGED:
            ref, _, kind = name.partition(" kind=")
            rendering = self._plans[name]["rendering"].removeprefix("sha256:")
            view = next(view for view, of in VIEWS.items() if of == kind)
            repo = ref.partition("@")[0].replace("/", ".").replace(".", "/", 1)
            for part in ("bytes=0-99", "bytes=801-1500", "bytes=-64"):
                query = {"ref": ref, "kind": kind}
                answer = self.client.get(f"{API}/artifacts/{rendering}/{path}", params=query, headers={"Range": part})
                assert answer.status_code == 206, (name, answer.text)
                told = self.names.text(f"{answer.headers['content-range']} {answer.headers['etag']} ")
                self._is(f"range {name} {path} {part}", told.encode() + answer.content)
                resolved = f"/{view}/{repo}/resolve/main/{path}"
                same = self.client.get(resolved, headers={"Range": part}, follow_redirects=True)
                assert same.content == answer.content, (name, path, part)

    def answers(self) -> None:
        """What the API answers, and what it refuses."""
        for route in ROUTES:
            self._is(f"GET {route}", self.names.document(self._get(API + route)))
        for method, route, body in WRONG:
            answer = self.client.request(method, API + route, json=body)
            assert answer.status_code >= 400, (method, route)
            told = self.names.document([answer.status_code, answer.json()])
            self._is(f"refused {method} {route} {json.dumps(body)}", told)

    def screens(self) -> None:
        """What commands print, and how they end."""
        from registry.cli.main import main

        for words in SCREENS:
            out, threshold = io.StringIO(), gc.get_threshold()
            code: object = None
            with (
                mock.patch.object(sys, "argv", ["registry", *words.split(), "--url", str(self.place)]),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                try:
                    main()
                except SystemExit as end:
                    code = end.code
            gc.set_threshold(*threshold)
            # Not stderr: there are sentences only, which may be worded better. Nor counts, written now and then.
            shown = re.sub(r"^  used +.*\n", "", out.getvalue(), flags=re.MULTILINE)
            self._is(f"screen {words}", self.names.text(f"{code}\n{shown}\n").encode())


def _products(data: bytes) -> Iterator[bytes]:
    """The header of an adapter's weights, and each B @ A to a thousandth."""
    length = int.from_bytes(data[:8], "little")
    yield data[: 8 + length]
    tensors: dict[str, RawTensor] = parse_tensors(data)
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            product = tensors[name.replace("lora_A", "lora_B")].values @ a.values
            yield np.rint(product * 1000).astype("<i8").tobytes()
