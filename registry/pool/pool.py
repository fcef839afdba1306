"""A running model over one base of a registry: paths are merged into it in place and taken out again, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from os import PathLike
from typing import Any, Self

import torch
from torch import nn

from registry.errors import RegistryError, UsageError
from registry.operations.registry import Registry
from registry.pool.call_gate import Gate, guard, unguard
from registry.pool.checked_base import PoolRegistry, find_base
from registry.pool.compiled.model import CompiledModel
from registry.pool.layout import Place, PristineTensors
from registry.pool.live_weights import LiveWeights
from registry.pool.parallel_training import Siblings
from registry.pool.path_programs import Wanted, asked, wanted
from registry.pool.per_call.runner import BesidePaths, Refs
from registry.pool.per_call.selection import PoolStats
from registry.pool.refusals import body_of, check_model
from registry.schemas import Dtype, Fetched
from registry.settings import parse_size
from registry.tensors.arithmetic.dtypes import TORCH

_DTYPES: dict[torch.dtype, Dtype] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_HALF_WRITTEN = (
    "A merge was interrupted, and so was putting the weights back: the model's weights are half written. Call "
    "`unmerge()` of its pool."
)


class AdapterPool:
    """A running PyTorch model, and the paths of a registry that are merged into it.

    The model is the base model of the paths, in bf16, fp16 or fp32 and on any one device; its weights are compared with
    the base's digests first. `merge` makes them those of ``registry fetch --as merged`` with the model's dtype, bit for
    bit; `unmerge` restores the base's, from rows that were stored and never by subtracting. Threads may share a pool.

    Args:
        model: a plain `torch.nn.Module`, such as a model of transformers, or one of sentence-transformers around it. It
            is changed in place.
        registry: an open registry, in process or over HTTP; it stays the caller's to close, after the pool.
        memory: how many bytes of the base's rows are held on the CPU. Others are read from the registry again.
        base: the base model's name, if several have all weights of the model, as for a model without its head.

    Raises:
        IntegrityError: ``wrong_base``: the weights are not those of a base model of the registry.
        UsageError: ``unsupported_model``: the model is wrapped, quantised, offloaded, split or distributed.

    Example:
        >>> with AdapterPool(model, team) as pool:
        ...     with pool.merged("llama/support/french@1"):
        ...         french = model(ids).logits
        ...     base = model(ids).logits
    """

    def __init__(
        self, model: nn.Module, registry: Registry, *, memory: str | int = "2GiB", base: str | None = None
    ) -> None:
        asked: object = registry
        if not isinstance(asked, PoolRegistry):
            raise UsageError("A pool needs a registry that was opened by `registry.connect`.")
        check_model(model)
        body = body_of(model)
        self._model = model
        self._registry = asked
        self._turn = threading.RLock()  # held by a change, and through the block of `merged`
        self._gate = Gate()
        self._path = Wanted(None)
        self._siblings: Siblings | None = None  # that are trained: their parent stays merged
        self._named: str | None = None  # what the model named as its source, while it names what `save` wrote
        with ExitStack() as opened:
            guard(self._gate, model)
            opened.callback(unguard, model)
            with self._gate.change():
                found, layout = find_base(self._registry, body, base, opened)
                pristine = PristineTensors(found.tensors.tensors, _bytes(memory))
                self._live = LiveWeights(body, layout, pristine)
            self._beside = BesidePaths(model, body, self._registry, found, self._live, self._gate)
            self._compiled: CompiledModel | None = None
            self._base, self._layout = found, layout
            self._opened = opened.pop_all()

    @property
    def base(self) -> str:
        """The base model's name."""
        return self._base.name

    @property
    def path(self) -> str | None:
        """The revision that is merged, ``PATH@N``; None: the weights are the base's."""
        return self._path.reference

    def merge(self, ref: str) -> str:
        """Merge a path into the model, in the place of what is merged; waits for running calls of the model.

        A tensor that no link below the common ancestor touches stays as it is; every other is computed again from the
        base's rows over its whole path. Where it fails, or is interrupted, the model holds what it held before, or the
        base; could neither be put back, calls of the model are refused until `unmerge` succeeds.

        Args:
            ref: ``PATH@3``, ``PATH@prod``, ``PATH``; a tag is resolved now. The base model's name unmerges.

        Returns:
            The revision, ``PATH@N``.

        Raises:
            NotFoundError, RetractedError, NotAllowedError: it names nothing that may be used.
            IntegrityError: ``wrong_base``; ``model_changed``: something else changed the weights, as training does.
            InvalidAdapterError: ``overflow``: a merged weight is too large for the model's dtype.
            UsageError: ``unsupported_model``: the model lacks a head that the path has.

        Example:
            >>> pool = AdapterPool(model, team)
            >>> pool.merge("llama/support")
            'llama/support@2'
            >>> pool.unmerge()
            >>> pool.close()
        """
        self._gate.check_outside()
        with self._turn:
            self._check_no_siblings()
            if self._beside.choices.default is not None:
                raise UsageError("A path is set as the default beside the base: `pool.set(None)` before one is merged.")
            named = asked(self._registry, ref, self._base)
            self._become(wanted(self._registry, named, self._base, self._layout))
            self._registry.note_use(named.pinned)
            return named.reference or self.base

    def unmerge(self) -> None:
        """Give the model the base's weights back; waits for running calls of the model.

        Raises:
            IntegrityError: ``model_changed``: something else changed the weights.
            UnavailableError: rows that are not held in memory can't be read.

        Example:
            >>> with AdapterPool(model, team) as pool:
            ...     reference = pool.merge("llama/support")
            ...     pool.unmerge()
        """
        self._gate.check_outside()
        with self._turn:
            self._check_no_siblings()
            self._become(Wanted(None))

    @contextmanager
    def merged(self, ref: str) -> Iterator[str]:
        """Merge a path for the length of a block, then what was merged before; other threads' merges wait.

        Args:
            ref: as for `merge`, whose errors it raises.

        Example:
            >>> with AdapterPool(model, team) as pool, pool.merged("llama/support@2") as reference:
            ...     answer = model(ids).logits
        """
        self._gate.check_outside()
        with self._turn:
            before = self._path.reference
            reference = self.merge(ref)
            try:
                yield reference
            finally:
                self._return_to(before)

    def set(self, ref: str | None) -> str | None:
        """Make a path the default of all calls, beside the base's weights; nothing is merged.

        Args:
            ref: as for `merge`. None: the base.

        Returns:
            The revision, ``PATH@N``; None: the base.

        Raises:
            NotFoundError, RetractedError, NotAllowedError: it names nothing that may be used.
            UsageError: a path is merged; ``unsupported_model``: a module can't be run beside its base.
            IntegrityError: ``wrong_base``; ``model_changed``.

        Example:
            >>> with AdapterPool(model, team) as pool:
            ...     reference = pool.set("llama/support")
            ...     answer = model(ids).logits
        """
        with self._turn:
            self._check_no_siblings()
            return self._beside.set(ref)

    def use(self, refs: Refs) -> AbstractContextManager[str | tuple[str | None, ...] | None]:
        """Run a path beside the base's weights for the length of a block, or one for each row of the batch.

        The choice is that of this thread, or task: others run what they chose. A thread that is started in
        the block has the default.

        Args:
            refs: a reference, as for `merge`, or one for each row; None is the base.

        Returns:
            For ``with``: the revision, or one for each row.

        Raises:
            As `set`. From calls of the model within the block, UsageError: the list does not fit the batch.

        Example:
            >>> with AdapterPool(model, team) as pool, pool.use(["llama/support", None]):
            ...     answers = model(ids.repeat(2, 1)).logits
        """
        self._check_no_siblings()
        return self._beside.use(refs)

    def encode(self, texts: Sequence[Any], refs: Sequence[str | None], **options: Any) -> Any:
        """What the model's own ``encode`` (or ``predict``) makes of each text with its path, in their order.

        sentence-transformers sorts its inputs by length, so a list of paths around it would go to other rows.

        Args:
            texts: what it takes.
            refs: a reference for each; None is the base.
            options: its own.

        Raises:
            As `use`.

        Example:
            >>> with AdapterPool(encoder, team) as pool:
            ...     vectors = pool.encode(["Bonjour", "Hello"], ["encoder/french", None])
        """
        return self._beside.encode(texts, refs, options)

    def prefetch(self, refs: Sequence[str]) -> Future[None]:
        """Compose paths in the background, so that their first use need not wait.

        Returns:
            It is done when all are ready, and has the first error.

        Example:
            >>> with AdapterPool(model, team) as pool:
            ...     pool.prefetch(["llama/support"]).result()
        """
        return self._beside.prefetch(refs)

    def compile(
        self, max_rank: int = 64, paths: int = 8, *, modules: Sequence[str] | None = None, **options: Any
    ) -> None:
        """Run the model through ``torch.compile``, once for all paths: a switch changes slots of fixed shapes.

        Every module that multiplies by its weight gets slots, padded with zeros. What a path needs beyond them (a
        higher rank, a norm of its own) makes them larger at its first call, which reports it and compiles once more.

        Args:
            max_rank: the rank that slots have room for.
            paths: how many paths have slots at once; the least recently used makes room.
            modules: names of modules, or ends of them, that get slots at once. None: all.
            options: those of ``torch.compile``.

        Raises:
            UsageError: the slots would take more than the pool's memory.

        Example:
            >>> with AdapterPool(model, team) as pool:
            ...     pool.compile(max_rank=16, paths=4, backend="eager")
            ...     with pool.use("llama/support"):
            ...         answer = model(ids).logits
        """
        self._gate.check_outside()
        with self._turn, self._gate.change():
            self._check_no_siblings()
            self._close_compiled()
            self._compiled = CompiledModel(self._beside, max_rank, paths, modules, options)

    def stats(self) -> PoolStats:
        """How many paths are ready, what they take, and how often that was enough.

        Example:
            >>> with AdapterPool(model, team) as pool:
            ...     ready = pool.stats().resident
        """
        return self._beside.stats()

    def save(self, out: str | PathLike[str], *, force: bool = False) -> Fetched:
        """Write the merged model into a folder, with a receipt: what is trained on it finds its parent when published.

        The files are those of ``registry fetch --as merged`` with the model's dtype, so its weights are the model's. As
        long as the path is merged, a model of transformers names that folder as its source, which PEFT writes into
        the adapters that it trains.

        Args:
            out: the folder.
            force: replace what is in it.

        Raises:
            IntegrityError: ``model_changed``: something else changed the weights, so that the files would be others.
            UsageError: the model has tensors of several dtypes, and not those of the base's files.
            ConflictError: ``folder_taken``.

        Example:
            >>> with AdapterPool(model, team) as pool, pool.merged("llama/support"):
            ...     saved = pool.save("merged-support")
        """
        with self._turn:
            self._live.check_unchanged(values=True)
            saved = self._registry.fetch(
                self._path.reference or self.base, out, kind="merged", dtype=self._dtype(), force=force
            )
            loaded_from = vars(self._model).get("name_or_path")
            if isinstance(loaded_from, str):
                self._named = loaded_from if self._named is None else self._named
                vars(self._model)["name_or_path"] = saved.folder
            return saved

    def siblings(self, configs: Mapping[str, object], parent: str | None = None, **options: Any) -> Siblings:
        """Train several new adapters at once on one parent, which stays merged and frozen until they are closed.

        Args:
            configs: a ``peft.LoraConfig``, or its fields, by the path that the adapter is to be published at: LoRA,
                rsLoRA and DoRA of linear modules and embeddings, and ``modules_to_save``.
            parent: the revision that they are trained on, the parent of all paths. None: the base model.
            options: for all, or by path. ``seed`` of what is drawn; ``learning_rate`` (1e-4) and ``weight_decay`` (0)
                of AdamW, or ``optimizer``, a function that makes one for a list of parameters; ``max_grad_norm`` (1.0),
                None does not clip; ``accumulate`` batches before each update. For all: ``loss``, a function of one
                sibling's logits and labels, where the model's own is not known.

        Raises:
            RegistryError: what `merge` raises.
            UsageError: others are trained already; a path is no child of the parent; ``unsupported_model``: a target
                is of a kind that is not trained.
            InvalidAdapterError: a configuration is malformed or of a kind that is not trained.

        Example:
            >>> configs = {"llama/legal/eu": config, "llama/legal/us": config}
            >>> with AdapterPool(model, team) as pool, pool.siblings(configs, "llama/legal@1") as siblings:
            ...     step = siblings.step({"input_ids": ids, "labels": ids}, ["llama/legal/eu", "llama/legal/us"])
            ...     references = siblings.publish()
        """
        with self._turn:
            self._check_no_siblings()
            if self._compiled is not None:
                raise UsageError(
                    "The model is compiled, and siblings are trained by hooks: use a pool of another copy."
                )
            before = self._path.reference
            reference = self.merge(parent or self.base)
            try:
                self._siblings = Siblings(
                    self._model,
                    self._registry,
                    reference,
                    configs,
                    closed=lambda: self._siblings_closed(before),
                    check_parent=lambda: self._live.check_unchanged(values=True),
                    **options,
                )
            except BaseException:
                self._return_to(before)
                raise
            return self._siblings

    def close(self) -> None:
        """Give the model the base's weights back and let go of it; the registry stays open."""
        with self._turn:
            if self._siblings is not None:
                self._siblings.close()
            try:
                self.unmerge()
            finally:
                if self._gate.refusal is None:
                    self._close_compiled()
                    self._beside.close()
                    self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pool over {self.base}, {self.path or 'nothing'} merged>"

    def _close_compiled(self) -> None:
        if self._compiled is not None:
            self._compiled.close()
            self._compiled = None

    def _siblings_closed(self, before: str | None) -> None:
        with self._turn:
            self._siblings = None
            self._return_to(before)

    def _check_no_siblings(self) -> None:
        if self._siblings is not None:
            raise UsageError(f"Siblings are trained on {self._siblings.parent}, which stays merged: close them first.")

    def _become(self, path: Wanted) -> None:
        before = self._path
        try:
            with self._gate.change():
                self._live.check_unchanged(values=True)
                try:
                    self._gate.refusal, self._beside.choices.merged = _HALF_WRITTEN, True
                    self._live.become(path)
                    self._hold(path)
                except BaseException:
                    self._put_back(before)
                    raise
        except BaseException:
            path.close()
            raise
        if path is not before:
            before.close()
        self._unname()

    def _return_to(self, before: str | None) -> None:
        """What was merged before a block; where it may not be used any more, the base."""
        if before is None:
            self.unmerge()
            return
        try:
            self.merge(before)
        except RegistryError:
            self.unmerge()
            raise

    def _put_back(self, before: Wanted) -> None:
        """After a change that failed: what was merged before it, else the base, else calls stay refused."""
        for path in (before, Wanted(None)):
            with suppress(BaseException):  # the first error is raised; the base is tried after the path
                self._live.become(path)
                self._hold(path)
                return

    def _hold(self, path: Wanted) -> None:
        self._path, self._beside.choices.merged, self._gate.refusal = path, path.reference is not None, None

    def _unname(self) -> None:
        if self._named is not None:
            vars(self._model)["name_or_path"] = self._named
            self._named = None

    def _dtype(self) -> Dtype | None:
        """The option that makes files of the model's dtype; None: that of the base's files."""
        found = {(one.get().dtype, self._stored(place)) for one in self._layout.values() for place in one.places}
        pairs = {(live, stored) for live, stored in found if stored is not None and live.is_floating_point}
        dtypes = {live for live, _ in pairs}
        if len(dtypes) == 1 and dtypes <= _DTYPES.keys():
            return _DTYPES[dtypes.pop()]
        if all(live is stored for live, stored in pairs):
            return None
        raise UsageError("The model has weights of several dtypes, other than the base's files; no folder holds these.")

    def _stored(self, place: Place) -> torch.dtype | None:
        origin = place.origin
        return None if origin is None else TORCH[self._base.tensors.entry(origin.places[0].tensor).dtype]


def _bytes(memory: str | int) -> int:
    try:
        return memory if isinstance(memory, int) else parse_size(memory)
    except ValueError:
        raise UsageError(f"memory is {memory!r}, and a size such as 2GiB or 500MB is expected.") from None
