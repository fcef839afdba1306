"""Fetching an artifact in process: which rendering it has, by a remembered numerics fingerprint, and writing it.

The numerics fingerprint of this machine, remembered from one process to the next, so that it needs no torch.

It is remembered with all that it depends on: the processor, the build of torch, the code of the tensor core, the
format of artifacts, and the environment that torch reads when it is loaded. Any difference, or a file that is not
whole, probes anew. What is computed here never relies on it: once torch is loaded, the fingerprint is the probe's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from registry import tensors
from registry.digest import canonical_json, document_digest, hex_of
from registry.errors import IntegrityError, NotFoundError
from registry.folders.base_files import WeightFile, check_weights
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import FetchCache
from registry.progress import Progress
from registry.schemas import Fetched, Options
from registry.schemas.artifacts import KINDS, is_full
from registry.schemas.form import MeasuredRows
from registry.schemas.labels import old_name_notices
from registry.services.artifacts.build import check_asked
from registry.services.artifacts.opened import Asked, ask, described, open_asked
from registry.services.deployment import Deployment
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, fingerprint, rendering_of
from registry.tensors.lineage.plan import make_plan
from registry.transfer.fetched_folder import FetchSource, fetched_before, place_of, write_artifact
from registry.transfer.receipt_check import receipt_of
from registry.version import __version__

_CPUINFO: Final = Path("/proc/cpuinfo")
_VARIES: Final = re.compile(
    r"processor|physical id|siblings|core id|cpu cores|(initial )?apicid|cpu MHz|bogomips", re.IGNORECASE
)
"""Lines of `_CPUINFO` that give the core's number and its current speed, and not its capabilities."""
_READ_BY_TORCH: Final = re.compile(
    r"(MKL|OMP|KMP|GOMP|OPENBLAS|BLIS|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|LD|GLIBC|NPY|VECLIB|ACCELERATE)_.*"
)
"""Variables that choose kernels, their threads or the libraries they come from."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")


def machine_fingerprint(folder: Path) -> str:
    """The numerics fingerprint of this machine: as remembered in ``folder``, or else probed with torch and remembered.

    In a process that has loaded torch it is always probed: the environment in which torch was loaded is unknown.
    """
    if _torch_is_loaded() or (key := _key()) is None:
        return fingerprint()
    file = folder / f".numerics-{hex_of(document_digest(key))[:32]}.json"
    found = _remembered(file, key)
    if found is None:
        found = fingerprint()
        with suppress(OSError):  # such as another user's folder: the next process probes again
            _remember(file, _document(key, found))
    return found


def _torch_is_loaded() -> bool:
    return "torch" in sys.modules


def _remember(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(canonical_json(document))
        os.replace(name, file)  # noqa: PTH105 - it has no other name yet
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _document(key: dict[str, Any], found: str) -> dict[str, Any]:
    document = {"key": key, "fingerprint": found}
    return document | {"digest": document_digest(document)}


def _remembered(file: Path, key: dict[str, Any]) -> str | None:
    try:
        document = json.loads(file.read_bytes())
        found = document["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(found, str) or not _FINGERPRINT.fullmatch(found) or document != _document(key, found):
        return None
    return found


def _key() -> dict[str, Any] | None:
    """Everything that the fingerprint depends on; None: the processor does not identify itself."""
    torch = find_spec("torch")  # finds it without loading it
    if torch is None or torch.origin is None:
        return None
    try:
        processors = _processors(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
        home = Path(torch.origin).parent
        build = hashlib.sha256((home / "version.py").read_bytes()).hexdigest()
        libraries = _stamps(home, (home / "lib").iterdir())
        code = _stamps(Path(tensors.__path__[0]), Path(tensors.__path__[0]).rglob("*.py"))
    except OSError:
        return None
    return {
        "machine": [platform.machine(), *processors],
        "torch": [ascii(home), build, libraries],
        "environment": {name: ascii(value) for name, value in os.environ.items() if _READ_BY_TORCH.fullmatch(name)},
        "artifact_format": ARTIFACT_FORMAT,
        "code": [__version__, code],
    }


def _processors(text: str) -> list[str]:
    """What the cores can do, each kind of core once."""
    kinds = set()
    for core in text.split("\n\n"):
        lines = (line.partition(":") for line in core.splitlines())
        kinds.add("\n".join(f"{name.strip()}:{value}" for name, _, value in lines if not _VARIES.match(name)))
    return sorted(kinds - {""})


def _stamps(home: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of change of each file."""
    stats = ((file, file.stat()) for file in sorted(files))
    return [[str(file.relative_to(home)), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    base_dir: Path | None = None,
    measured: MeasuredRows = "sample",
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.operations.registry.Registry.fetch`.

    A registry in process merges on its own stored files. It only checks that those in ``base_dir`` are the same, so
    that other weights are refused as by a client that merges on them.

    Raises:
        NotFoundError, IntegrityError: ``base_dir`` has no such file, or ``wrong_base``.
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the requested error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    asked = ask(deployment, ref, options)
    if base_dir is not None:
        base = asked.path.base
        files = (file for file in base.files if file.path.endswith(".safetensors"))
        wanted = (WeightFile(file.path, file.size, file.digest) for file in files)
        check_weights(base_dir, base.name, wanted, progress)
    there = _there_already(deployment, asked, cache, out, progress)
    if there is not None and (measured == "sample" or is_full(there.fidelity)):
        deployment.note_use(asked.path.reference)
        return there
    with open_asked(deployment, asked, measured=measured) as artifact:
        deployment.note_use(asked.path.reference)
        source = _source(deployment, asked, artifact, artifact.size)
        if measured == "full":
            source = replace(source, measure=artifact.measure)
        return write_artifact(source, cache, out, force=force, progress=progress)


def _source(deployment: Deployment, asked: Asked, artifact: Artifact, size: int) -> FetchSource:
    return FetchSource(
        artifact.rendering,
        size,
        receipt=lambda files: receipt_of(
            described(asked.path, asked.ancestor, artifact), files, deployment.url, artifact.fidelity()
        ),
        open=lambda _: nullcontext(artifact),
        lasting=old_name_notices(asked.path.reference, asked.renamed_to),
    )


def _there_already(
    deployment: Deployment, asked: Asked, cache: FetchCache, out: Path | None, progress: Progress
) -> Fetched | None:
    """The answer if this version has fetched the same into the folder before: it needs no torch. Else None.

    What is only known once the artifact is built, such as its notices, is taken from the receipt. So the receipt has to
    be one that this version wrote, for the same reference.
    """
    options, kept = asked.options, asked.materialised
    depends_on_values = (options.rank, options.max_error, options.min_fidelity) != (None, None, None)
    if KINDS[options.kind].is_verbatim or depends_on_values:
        return None  # needs no torch anyway, or values decide what is made, or whether
    check_asked(asked.path, options)
    if out is not None and not os.path.isfile(out.expanduser() / RECEIPT):  # noqa: PTH113 - raises nothing
        return None
    plan = asked.plan or make_plan(asked.path, asked.ancestor, options)
    numerics = machine_fingerprint(cache.folder) if kept is None else kept.numerics
    rendering = rendering_of(plan, numerics)
    try:
        receipt = read_receipt(place_of(rendering, cache, out))
    except (NotFoundError, IntegrityError):
        return None
    since = None if asked.ancestor is None else asked.ancestor.reference
    asked_before = (asked.path.reference, since, __version__, ARTIFACT_FORMAT)
    versions = receipt.versions
    if asked_before != (receipt.reference, receipt.since, versions.registry, versions.artifact_format):
        return None
    artifact = Artifact(plan, (), notices=receipt.notices, truncation=receipt.truncation, numerics=numerics)
    size = sum(file.size for file in receipt.files)
    return fetched_before(_source(deployment, asked, artifact, size), cache, out, progress)
