"""Composing on a client's machine: the same core, on local base weights and adapters that a service sends.

The result is what the service would make, since the plan consists of the same digests. A bundle is checked against its
digests, and a base file is rejected if it was written to after it was hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from registry.errors import InvalidAdapterError, UsageError
from registry.files.hashed import HashedFile
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.operations.publication import FullModel
from registry.progress import Progress
from registry.schemas import Options, OutputFile
from registry.schemas.form import MeasuredRows
from registry.schemas.parents import Identified
from registry.schemas.receipt import Receipt
from registry.schemas.transfer import Bundle
from registry.services.artifacts.build import build_artifact
from registry.services.extraction import write_full
from registry.services.publishing.identify import identify, with_compared
from registry.services.publishing.port import over_http
from registry.services.weight_changes import WeightChanges
from registry.tensors.arithmetic.dtypes import TORCH
from registry.tensors.arithmetic.streamed import check_finite
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile
from registry.tensors.artifacts.numerics import TensorComparison
from registry.tensors.limited import convert_pickle
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.lineage.plan import described
from registry.tensors.lineage.received_bundles import Bundles, OpenBlobOf
from registry.transfer.publish_request import PublishFolder
from registry.transfer.publish_tree import BundleSource
from registry.transfer.receipt_check import receipt_of
from registry.transfer.source import MadeOfFull


class MergedHere:
    """An artifact that is computed on this machine, and its path."""

    def __init__(self, path: LoadedPath, artifact: Artifact, bundles: Bundles) -> None:
        self.path = path
        self.artifact = artifact
        self.check_base = bundles.check_base
        self._bundles = bundles

    @property
    def rendering(self) -> str:
        """The identity of its bytes."""
        return self.artifact.rendering

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.artifact.size

    @property
    def files(self) -> Mapping[str, ArtifactFile]:
        """The files by name."""
        return self.artifact.files

    def receipt(self, files: tuple[OutputFile, ...], registry: str) -> Receipt:
        """The receipt for the files that were written."""
        return receipt_of(described(self.path, None, self.artifact), files, registry, self.artifact.fidelity())

    def measure(self) -> None:
        """Measure what was not made, because the folder had it."""
        self.artifact.measure()

    def close(self) -> None:
        """Close the blobs that it reads."""
        self.artifact.close()
        self._bundles.close()


class LocalArithmetic:
    """The tensor core of this machine, for a client."""

    def merge(
        self,
        bundle: Bundle,
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        options: Options,
        measured: MeasuredRows = "sample",
    ) -> MergedHere:
        """Compose a path on base weights of this machine; ``base`` holds the hashed files by name.

        Raises:
            UsageError: the options contradict each other or the reference.
            IntegrityError: the bundle contradicts itself; ``wrong_base``: a base file was changed after its check.
            UnavailableError: a base file can't be read.
        """
        if options.since is not None:
            raise UsageError(
                "--since can't be combined with --base-dir: the links after an ancestor are composed by the service, "
                "not on this machine."
            )
        with ExitStack() as opened:
            bundles = opened.enter_context(closing(Bundles(open_blob)))
            path = bundles.load(bundle, base).weighted(options.weights)
            merged = MergedHere(path, build_artifact(bundles, path, None, options, measured=measured), bundles)
            opened.pop_all()
            return merged

    def changes(
        self, bundle: Bundle, ancestor: Bundle | None, open_blob: OpenBlobOf, base: Mapping[str, HashedFile]
    ) -> WeightChanges:
        """What the links after an ancestor changed; raises what `WeightChanges` raises, and `IntegrityError`."""
        with ExitStack() as opened:
            bundles = opened.enter_context(closing(Bundles(open_blob)))
            since = None if ancestor is None else bundles.load(ancestor, base)
            return WeightChanges(bundles, bundles.load(bundle, base), since, opened.pop_all())

    def compare(self, service: BundleSource, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The folder, its request with what the weights are that the adapter was trained on."""
        with over_http(service, progress) as port:
            return with_compared(port, folder, progress)

    def identify(
        self, service: BundleSource, folder: Path, look_in: tuple[Path, ...], progress: Progress
    ) -> Identified:
        """Find which base model and revisions of a service a folder is made of."""
        with over_http(service, progress) as port:
            return identify(port, folder, look_in, progress)

    def write_full(
        self,
        parent: Bundle,
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        folder: Path,
        asked: FullModel,
        out: Path,
        progress: Progress,
    ) -> MadeOfFull:
        """Write what is published of a full model over its parent into an empty folder."""
        with closing(Bundles(open_blob)) as bundles:
            return write_full(bundles, bundles.load(parent, base), folder, asked, out, progress)

    def check_finite(self, weights: Path, progress: Progress) -> None:
        """Check that all weights of an adapter are finite; raises `InvalidAdapterError`."""
        with FileSource(weights) as source:
            header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
            progress.begin("Checking the weights", source.size)
            check_finite(header.entries, source, progress.advance)

    def from_pickle(self, pickle: Path, out: Path) -> None:
        """Write the tensors in a pickle as a safetensors file; raises `InvalidAdapterError`."""
        convert_pickle(pickle, out)

    def comparison(self, dtype: str) -> TensorComparison:
        """A comparison of two renderings of a tensor of this dtype."""
        return TensorComparison(dtype)

    def tensor(self, data: bytearray, dtype: str, shape: tuple[int, ...]) -> Any:
        """Bytes of a file as a tensor."""
        flat = torch.frombuffer(data, dtype=TORCH[dtype]) if data else torch.empty(0, dtype=TORCH[dtype])
        return flat.reshape(shape)
