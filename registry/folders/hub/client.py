"""Wraps the Hub's own client, huggingface_hub, and maps its exceptions to errors of the registry.

It is imported on first use, and takes its settings from the environment as usual.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UnavailableError
from registry.folders.local_files import in_words
from registry.progress import Progress
from registry.settings import redacted

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_AT_ONCE: Final = 8
REFUSED: Final = (401, 403)
"""Statuses with which a Hub refuses a token."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit, as the Hub lists it."""

    path: str
    size: int
    sha256: str | None  # hex; None if the Hub does not list it


class HubClient:
    """One repository of the Hub that the environment names; ``called`` is the user's name for it, for messages."""

    _verb = "downloaded from"

    def __init__(self, repo_id: str, called: str) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, file_download, hf_api
        except ModuleNotFoundError as problem:
            raise UnavailableError(
                f"{called} is a Hub repository, and the package huggingface_hub, which reads and writes it, is not "
                "installed here; install it.",
                code="missing_package",
            ) from problem
        self._hub: Any = huggingface_hub
        # Imported by name: the package loads its modules lazily, and not as attributes.
        self._constants: Any = constants
        self._errors: Any = errors
        self._folder_name: Any = file_download.repo_folder_name
        self._listed_file: Any = hf_api.RepoFile
        self._repo_id = repo_id
        self._called = called

    @property
    def endpoint(self) -> str:
        """The address of the Hub, redacted."""
        return redacted(self._constants.ENDPOINT)

    @property
    def _offline(self) -> bool:
        return bool(self._constants.HF_HUB_OFFLINE)

    def repositories(self) -> list[str]:
        """Ids of all repositories of models of the organisation that this client is for, by name.

        Raises:
            UnavailableError: offline, or the Hub can't be reached.
        """
        if self._offline:
            raise UnavailableError(
                f"{self._called} is a list of repositories of the Hub, and HF_HUB_OFFLINE forbids network access: "
                "unset it, or import the folder of the Hub's cache."
            )
        with self._told(None):
            return sorted(str(one.id) for one in self._api.list_models(author=self._repo_id))

    def resolve(self, revision: str | None) -> str:
        """The commit of a revision name now; offline, its commit when it was last resolved."""
        if self._offline:
            return self._cached_commit(revision or "main")
        with self._told(revision):
            info = self._api.model_info(self._repo_id, revision=revision)
        return str(info.sha)

    def files(self, commit: str) -> list[HubFile]:
        """All files at a commit; offline, those in the cache."""
        if self._offline:
            return list(self._cached_files(commit))
        with self._told(commit):
            listed = list(self._api.list_repo_tree(self._repo_id, recursive=True, revision=commit))
        found = [entry for entry in listed if isinstance(entry, self._listed_file)]
        return [HubFile(file.path, file.size, file.lfs.sha256 if file.lfs else None) for file in found]

    def bring(self, commit: str, files: Sequence[HubFile], progress: Progress) -> dict[str, Path]:
        """Download files to the cache in parallel; returns the place of each by name."""
        counter = _Counter(progress)
        if not self._offline:
            progress.begin("Downloading", sum(file.size for file in files))
        with self._told(commit), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="hub") as pool:
            running = [pool.submit(self._bring, commit, file, counter) for file in files]
            try:
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for failed in done:
                    failed.result()
            except BaseException:
                counter.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {file.path: future.result() for file, future in zip(files, running, strict=True)}

    def _bring(self, commit: str, file: HubFile, counter: _Counter) -> Path:
        download = self._hub.hf_hub_download
        bar = counter.bar(file.size)
        # Before 1.0 the client draws its own bars, but none in a pipe.
        own = {"tqdm_class": bar} if "tqdm_class" in inspect.signature(download).parameters else {}
        place = download(self._repo_id, file.path, revision=commit, local_files_only=self._offline, **own)
        bar.finish()
        return Path(place)

    @property
    def _api(self) -> Any:
        return self._hub.HfApi()

    # -------------------------------------------------------------- offline

    def _cached_commit(self, revision: str) -> str:
        folder = self._cached_repo
        named = folder / "refs" / revision
        commit = named.read_text().strip() if named.is_file() else revision
        if not (folder / "snapshots" / commit).is_dir():
            raise UnavailableError(
                f"{self._called} is not in the Hub cache, and HF_HUB_OFFLINE forbids network access: unset it, or "
                "download the repository first."
            )
        return commit

    def _cached_files(self, commit: str) -> Iterator[HubFile]:
        root = self._cached_repo / "snapshots" / commit
        for place in sorted(root.rglob("*")):
            if place.is_file():
                yield HubFile(place.relative_to(root).as_posix(), place.stat().st_size, None)

    @property
    def _cached_repo(self) -> Path:
        name = self._folder_name(repo_id=self._repo_id, repo_type="model")
        return Path(self._constants.HF_HUB_CACHE) / str(name)

    # -------------------------------------------------------------- errors

    @contextmanager
    def _told(self, revision: str | None) -> Iterator[None]:
        """Map exceptions of the client to errors of the registry."""
        try:
            yield
        except RegistryError:
            raise
        except Exception as problem:
            raise self._error(problem, revision) from problem

    def _error(self, problem: Exception, revision: str | None) -> RegistryError:
        repo, told_by_hub = f"{self._repo_id} at {self.endpoint}", said(problem)
        known = self._errors
        told = {  # the first match counts: GatedRepoError is a subclass of RepositoryNotFoundError
            known.GatedRepoError: NotAllowedError(
                f"{repo} is gated: request access on its page, and set HF_TOKEN to a token of the account that has "
                f"it{told_by_hub}."
            ),
            known.RepositoryNotFoundError: NotFoundError(
                f"There is no repository {repo}, or HF_TOKEN does not give access to it{told_by_hub}."
            ),
            known.RevisionNotFoundError: NotFoundError(f"{repo} has no revision {revision or 'main'}{told_by_hub}."),
        }
        if (found := next((error for kind, error in told.items() if isinstance(problem, kind)), None)) is not None:
            return found
        if isinstance(problem, OSError) and problem.errno in {errno.ENOSPC, errno.EDQUOT}:
            return UnavailableError(
                f"There is no space left for {self._called} in the Hub's cache {self._constants.HF_HUB_CACHE}: free "
                "some space, or set HF_HOME to a folder with enough space.",
                code="disk_full",
            )
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status in REFUSED:
            return NotAllowedError(
                f"{self.endpoint} refuses this for {self._called} ({status}){told_by_hub}; check HF_TOKEN."
            )
        what = f"it answers with {status}" if status else _reason(problem)
        return UnavailableError(
            f"{self._called} can't be {self._verb} {self.endpoint}: {what}{told_by_hub}. Try again later."
        )


def said(problem: Exception) -> str:
    """The Hub's own message about the error."""
    text = " ".join(str(getattr(problem, "server_message", None) or "").split())
    return f" (it says: {text[:300].rstrip('.')})" if text else ""


def _reason(problem: Exception) -> str:
    """The innermost cause in one line: the HTTP library's message is more specific than the errors that wrap it."""
    while (cause := problem.__cause__ or problem.__context__) is not None and isinstance(cause, Exception):
        problem = cause
    return in_words(problem)[:300]


class _StoppedError(Exception):
    """Another download failed, or the user interrupted: this one ends, too."""


class _Counter:
    """Sums the bytes of all downloads, reporting from one thread at a time."""

    def __init__(self, progress: Progress) -> None:
        self.stopped = False
        self._progress = progress
        self._lock = Lock()

    def bar(self, size: int) -> _Bar:
        return _Bar(self._advance, size)

    def _advance(self, amount: int) -> None:
        if self.stopped:
            raise _StoppedError
        with self._lock:
            self._progress.advance(amount)


class _Bar:
    """A progress bar for one file that only counts. Passed as ``tqdm_class``: calling it returns itself."""

    def __init__(self, advance: Callable[[int], None], size: int) -> None:
        self.total: float | None = size  # read and set by some versions
        self.n = 0
        self.format_dict: dict[str, object] = {}
        self._advance = advance
        self._size = size
        self._done = 0

    def __call__(self, *args: object, **options: object) -> _Bar:
        del args, options
        return self

    def update(self, amount: float | None = 1) -> None:
        """Count more bytes; bytes that are downloaded again count once."""
        step = min(int(amount or 0), self._size - self._done)
        if step > 0:
            self._done += step
            self._advance(step)

    def finish(self) -> None:
        """Count the rest of the file, such as one that was cached."""
        self.update(self._size)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Ignore all other methods of bars, which differ by version."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


def _nothing(*args: object, **options: object) -> None:
    del args, options
