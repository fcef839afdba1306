"""Weights taken out of a registry: read, fetched, verified, precomputed."""

from __future__ import annotations

from abc import abstractmethod
from os import PathLike
from pathlib import Path as FilePath

from registry.bars import progress_sink
from registry.engines.checking import options_for, takes_any_rank
from registry.errors import UsageError
from registry.folders.placed_file import as_folder, placed, put_file
from registry.folders.receipts import receipt_in
from registry.folders.scan import ADAPTER_WEIGHTS, RECEIPT
from registry.operations import table
from registry.operations.arguments import asked, dtype_name
from registry.operations.methods.calls import TableCalls
from registry.operations.readable import ReadableArtifact
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import ArtifactKind, Fetched, Materialisation, Materialised, Options, Verified, WrittenDtype
from registry.schemas.artifacts import KINDS, Materialisations, TensorMismatch
from registry.schemas.form import EngineName, Layout, MeasuredRows, Onto
from registry.schemas.publishing import ReplayRequest
from registry.schemas.requests import (
    CheckRequest,
    DropRequest,
    MaterialisationsRequest,
    MaterialiseRequest,
    ReferenceRequest,
)
from registry.schemas.weights import Given, weights_text

Folder = str | PathLike[str]


class Artifacts(TableCalls):
    """Weights taken out of a registry: read, fetched, verified, precomputed."""

    @abstractmethod
    def _artifact(self, ref: str, options: Options) -> ReadableArtifact:
        """Open an artifact."""

    @abstractmethod
    def _fetch(
        self,
        ref: str,
        out: FilePath | None,
        options: Options,
        *,
        force: bool,
        base_dir: FilePath | None,
        measured: MeasuredRows,
        progress: Progress,
    ) -> Fetched:
        """Write an artifact into a folder."""

    @abstractmethod
    def _verify(self, folder: Folder, progress: Progress) -> Verified:
        """Check a fetched folder."""

    def artifact(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: WrittenDtype | None = None,
        onto: Onto | None = None,
        min_fidelity: float | None = None,
        layout: Layout | None = None,
        dense_as_diff: bool = False,
        plain: bool = False,
        weights: Given = None,
    ) -> ReadableArtifact:
        """The files that a reference stands for, readable by range, without writing anything.

        Args:
            ref: the revision, or a base model.
            kind: ``"lora"``: one adapter that equals the whole path. ``"merged"``: the base model with the path merged
                in. ``"published"``: the bytes as they were published.
            since: an ancestor; only the links after it, for use on its merged weights.
            rank: truncate each module to this rank at most.
            max_error: truncate as far as the relative Frobenius error over all modules stays below it.
            uniform: fill up with zeros to one rank.
            dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``, for all float tensors; torch's names and dtypes are taken, too.
                Of a quantised base ``"keep"``: what no link changes stays as it is stored; ``"fp8"``: what links change
                becomes codes again. None: as they are stored.
            min_fidelity: with ``dtype="fp8"``, the share of the change that has to survive.
            onto: ``"trained"``: merge onto the 4 bit weights that the path was trained on (QLoRA), as numbers. None:
                onto the base model as it is stored.
            layout: of an image model's LoRA, the names and files of ``"diffusers"``, ``"comfyui"`` (Forge's, too) or
                ``"vllm-omni"``; of a text model's, ``"gguf"`` (llama.cpp's) or ``"mlx"``. None: PEFT's.
            dense_as_diff: with ``"comfyui"``, write what is no product of low rank, such as DoRA, as the whole
                difference of a weight.
            plain: write what DoRA rescales as the nearest plain LoRA of what it changes of the merged weight, within
                ``max_error``, for readers that know no magnitudes.
            weights: what links add is multiplied by these, which no revision has: ``{"style": 0.8}`` by their last
                names, or a number for the last link, as ``PATH@3:0.8`` has it too. 0 leaves a link out; others have 1.

        Returns:
            The artifact. Close it, or use it in a ``with`` block.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, or one that it was trained on, was retracted.
            AccuracyError: ``rank`` is too low for ``max_error``.
            InvalidAdapterError: ``not_composable``: no single adapter equals the path; take ``"merged"``.
                ``not_weighable``: a link with a weight replaces values, which no weight scales.

        Example:
            >>> with team.artifact("llama/support/french", kind="merged") as artifact:
            ...     tensors = dict(artifact.tensors())
            >>> artifact
            <merged artifact: ... files, ..., rendering ...>
            >>> tensors["model.layers.0.self_attn.q_proj.weight"].shape
            torch.Size([16, 16])
        """
        options = asked(Options, locals(), dtype=dtype_name(dtype), weights=weights_text(weights))
        return self._artifact(*options.of(ref))

    def fetch(
        self,
        ref: str,
        out: Folder | None = None,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: WrittenDtype | None = None,
        onto: Onto | None = None,
        min_fidelity: float | None = None,
        layout: Layout | None = None,
        dense_as_diff: bool = False,
        plain: bool = False,
        weights: Given = None,
        force: bool = False,
        base_dir: Folder | None = None,
        engine: EngineName | None = None,
        max_lora_rank: int | None = None,
        fidelity: MeasuredRows = "sample",
        progress: Progress | bool = False,
    ) -> Fetched:
        """Write an artifact into a folder, with a receipt beside its files.

        Args:
            ref: the revision, or a base model.
            out: the folder. None: one in this machine's cache; the answer has its name. For ComfyUI and Forge the file,
                or the folder that it goes into under the name of its path; what was fetched of the path before is
                replaced.
            kind: as for `artifact`; likewise ``since``, ``rank``, ``max_error``, ``uniform``, ``dtype``,
                ``min_fidelity``, ``onto``, ``layout``, ``dense_as_diff``, ``plain`` and ``weights``, which the receipt
                pins.
            force: replace what is in the folder.
            base_dir: the base model's files on this machine: a merged model is then computed here, from the adapters
                alone, if the registry is a service. Its digests are checked.
            engine: write what this engine loads, by the rules of `check`: an adapter of one rank if it needs that,
                truncated only where its rank is above the limit and ``max_error`` allows it, which also allows a plain
                LoRA instead of DoRA for an engine without that.
            max_lora_rank: the largest rank that the engine is started with. None: its default.
            fidelity: of which rows of a merged model it is measured what rounding left of the change: ``"full"`` for
                all of them.
            progress: True shows a bar.

        Returns:
            The folder and what is in it; ``fresh`` is False if it held these very bytes already.

        Raises:
            ConflictError: ``folder_taken``: the folder holds something else, or beside this artifact what programs load
                with it.
            InvalidAdapterError: ``engine_limits``: no adapter exists that the engine loads; the message says what
                would do, and nothing is written.
            RegistryError: and what `artifact` raises.

        Example:
            >>> team.fetch("llama/support@prod", "./support-lora")
            <Fetched llama/support@2 as lora: ... files, ..., in ...support-lora>
            >>> team.fetch("llama/support@prod", "./support-r2", rank=2).truncation.total.relative_frobenius < 1
            True
            >>> team.fetch("llama/support/french", "./weaker", weights={"support": 0.8, "french": 0.6}).kind
            'lora'
        """
        options = asked(Options, locals(), dtype=dtype_name(dtype), weights=weights_text(weights))
        ref, options = options.of(ref)
        if engine is not None:
            ref, options = self._for_engine(ref, options, engine, max_lora_rank)
        elif max_lora_rank is not None:
            raise UsageError("--max-lora-rank says how an engine is started; it needs --for.")
        if fidelity == "full" and not KINDS[options.kind].is_model:
            raise UsageError(f"--fidelity full is about merged models, not --as {options.kind}: leave it out.")
        place, model = (None if one is None else FilePath(one) for one in (out, base_dir))
        single = options.layout == "comfyui" and place is not None
        with progress_sink(progress) as sink:
            answer = self._fetch(
                ref, None if single else place, options, force=force, base_dir=model, measured=fidelity, progress=sink
            )
            return put_file(answer, place, force=force, progress=sink) if single and place is not None else answer

    def _for_engine(
        self, ref: str, options: Options, engine: EngineName, max_lora_rank: int | None
    ) -> tuple[str, Options]:
        """The revision, and the options of its adapter that the engine loads."""
        if options.kind != "lora":
            raise UsageError(f"--for is about adapters, not --as {options.kind}: leave one of them out.")
        if options.rank is not None and not takes_any_rank(engine):
            raise UsageError("--rank can't be given with --for: the engine's largest rank is --max-lora-rank.")
        request = asked(CheckRequest, ref=ref, engine=engine, max_lora_rank=max_lora_rank, since=options.since)
        found = self._do(table.CHECK, request)
        return found.reference, options_for(options, found)

    def verify(self, folder: Folder, *, progress: Progress | bool = False) -> Verified:
        """Check a fetched folder, or file, against its receipt and, by computing it again, against the registry.

        The receipt is compared too, in all that can be computed again. Combinations in its path are combined again from
        their sources, and compared with what was published. What else lies in the folder is named.

        Returns:
            Whether they are equal. What differs is in ``mismatches``, and is no error; so is a file of something else
            that programs load with the folder, such as an adapter beside a merged model. ``beside`` has all that is not
            the artifact's.

        Raises:
            NotFoundError: the folder has no receipt, or the registry lacks what it names.
            IntegrityError: the receipt is not one, or is of other base weights.

        Example:
            >>> fetched = team.fetch("llama/support/french", "./french", kind="merged")
            >>> team.verify("./french").equal
            True
        """
        place = FilePath(folder)
        place = place.parent if place.name == RECEIPT and place.is_file() else place
        file = placed(place)
        with progress_sink(progress) as sink:
            if file is None:
                return self._verified(place, sink)
            with as_folder(file) as seen:
                return self._verified(seen, sink).model_copy(update={"folder": str(file)})

    def _verified(self, folder: FilePath, progress: Progress) -> Verified:
        answer = self._verify(folder, progress)
        return answer.model_copy(update=self._combined_again(folder, answer, progress))

    def _combined_again(self, folder: FilePath, answer: Verified, progress: Progress) -> dict[str, object]:
        """What combining the combinations of a folder's path again says; nothing if it has none."""
        receipt = receipt_in(folder)
        if receipt.tip is None:
            return {}
        ref = str(Reference(Reference.parse(receipt.reference).path, digest_prefix=receipt.tip))
        if not any(one.combined for one in self._do(table.RESOLVE, ReferenceRequest(ref=ref)).lineage):
            return {}
        found = self._do(table.REPLAY, ReplayRequest(ref=ref), progress).combinations
        wrong = tuple(
            TensorMismatch(file=ADAPTER_WEIGHTS, tensor=None, reason=f"{one.reference} is not what its sources give")
            for one in found
            if one.state == "different"
        )
        mismatches = (*answer.mismatches, *wrong)
        return {"combinations": found, "mismatches": mismatches, "equal": not mismatches}

    def materialise(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        expires_in: int | None = None,
        fidelity: MeasuredRows = "sample",
        progress: Progress | bool = False,
    ) -> Materialised:
        """Precompute the artifact that a reference stands for and keep it in the store for a while.

        Args:
            ref: the revision.
            kind: ``"lora"`` or ``"merged"``.
            expires_in: seconds to keep it, 30 days by default. What is stored already stays longer, never shorter.
            fidelity: of which rows of a merged model it is measured what rounding left of the change, as for `fetch`.
            progress: True shows a bar.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, or one that it was trained on, was retracted.

        Example:
            >>> kept = team.materialise("llama/support/french", kind="merged", expires_in=7 * 86400)
            >>> kept.created, kept.materialisation.reference
            (True, 'llama/support/french@1')
            >>> kept.materialisation.fidelity.surviving_share > 0.9
            True
        """
        request = asked(MaterialiseRequest, ref=ref, kind=kind, expires_in=expires_in, fidelity=fidelity)
        with progress_sink(progress) as sink:
            return self._do(table.MATERIALISE, request, sink)

    def materialisations(self, ref: str | None = None) -> Materialisations:
        """What is materialised, by path and number.

        Args:
            ref: only at and under a path, or of one revision (``PATH@...``). None: all.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Raises:
            NotFoundError: the path or revision does not exist.

        Example:
            >>> kept = team.materialise("llama/support")
            >>> [(one.reference, one.kind) for one in team.materialisations("llama/support")]
            [('llama/support@2', 'lora')]
        """
        return Materialisations(self._list(table.MATERIALISATIONS, asked(MaterialisationsRequest, ref=ref)))

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        """Drop what was materialised; the artifact is computed when it is read, as before.

        Args:
            which: the id of a materialisation, or a revision, of which all are dropped.
            kind: of a revision only this kind.

        Returns:
            What was dropped.

        Raises:
            NotFoundError: nothing is stored that could be dropped.

        Example:
            >>> kept = team.materialise("llama/support")
            >>> len(team.drop_materialisation("llama/support"))
            1
        """
        return self._do(table.DROP_MATERIALISATION, asked(DropRequest, which=which, kind=kind))
