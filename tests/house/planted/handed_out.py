"""What is handed out: composed adapters, truncation, merged files; and the registry around them."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import COMPOSE, MODEL_CONFIG, TRUNCATE, VARIANTS, Mutant, link

COMPOSED: Final = (
    Mutant(
        "scaled-where-it-is-kept",
        "tensors/composed/pair.py",
        "rows = read * (pair.scale * self.factor)",
        "rows = read.mul_(pair.scale * self.factor)",
        "tests/services/test_float64_factors.py",
    ),
    Mutant(
        "rank-order-composed",
        "tensors/composed/pair.py",
        "for pair in self.pairs:\n            first, last",
        "for pair in reversed(self.pairs):\n            first, last",
        f"{COMPOSE}::test_a_is_what_was_published_root_first",
    ),
    Mutant(
        "inverse-of-c-missing",
        "tensors/composed/pair.py",
        "(rows if scale is None else rows / scale[start:stop].unsqueeze(1))",
        "rows",
        f"{VARIANTS}::test_dora_anywhere[conv-everywhere]",
    ),
    Mutant(
        "sign-of-c-lost",
        "tensors/composed/pair.py",
        "magnitude * c.sign()",
        "magnitude",
        f"{VARIANTS}::test_a_negative_magnitude[dora]",
    ),
    Mutant(
        "composed-magnitude-of-ones",
        "tensors/composed/pair.py",
        "if isinstance(last, Rescale) else norms\n",
        "if isinstance(last, Rescale) else torch.ones_like(norms)\n",
        f"{VARIANTS}::test_dora_anywhere[conv-root]",
    ),
    Mutant(
        "pattern-unanchored",
        "tensors/composed/config.py",
        '"^" + re.escape(name)',
        "re.escape(name)",
        f"{COMPOSE}::test_a_pattern_is_of_one_module",
    ),
    Mutant(
        "scale-not-one",
        "tensors/composed/config.py",
        '"lora_alpha": rank,',
        '"lora_alpha": 2 * rank,',
        link("conv-plain"),
    ),
    Mutant(
        "composed-experts-slowest",
        "tensors/composed/experts.py",
        "permute(2, 1, 0)",
        "permute(2, 0, 1)",
        link("declared-experts"),
    ),
    Mutant(
        "experts-filled-with-ones",
        "tensors/composed/experts.py",
        "(0, 0, 0, count - rows.shape[0]))",
        "(0, 0, 0, count - rows.shape[0]), value=1.0)",
        "tests/services/test_truncation.py::test_experts_that_only_some_links_adapt",
    ),
    Mutant(
        "output-projection-not-halved",
        "tensors/composed/composition.py",
        "factor = 0.5 if attention_of",
        "factor = 1.0 if attention_of",
        link("attention-plain"),
    ),
    Mutant(
        "rounding-of-the-factors-ignored",
        "tensors/composed/composition.py",
        "or written is None or written <= max_error:",
        "or written is None or written > 0:",
        "tests/services/test_truncation_dtype.py::test_rounding_alone_can_be_too_much",
    ),
    Mutant(
        "untied-config-forgotten",
        "tensors/artifacts/model_config.py",
        "changed = {**config, _TIE: False}",
        "changed = dict(config)",
        MODEL_CONFIG,
    ),
    Mutant(
        "new-tensor-not-in-the-index",
        "tensors/artifacts/model_config.py",
        "for name in header.entries}",
        'for name in header.entries if name in index["weight_map"]}',
        MODEL_CONFIG,
    ),
)

TRUNCATION: Final = (
    Mutant(
        "smallest-kept",
        "tensors/truncation/truncate.py",
        "self.to_b[:, :rank].clone(), self.to_a[:rank].clone()",
        "self.to_b[:, -rank:].clone(), self.to_a[-rank:].clone()",
        TRUNCATE,
    ),
    Mutant(
        "row-weights-forgotten",
        "tensors/truncation/truncate.py",
        "        if row_weights is not None:\n",
        "        if False:\n",
        TRUNCATE,
    ),
    Mutant("distance-of-a-sum", "tensors/truncation/truncate.py", "-other_a.to(torch", "other_a.to(torch", TRUNCATE),
    Mutant(
        "c-missing-in-the-svd",
        "tensors/composed/truncated.py",
        "return rows if c is None else rows * c[start : start + step].unsqueeze(1)",
        "return rows",
        "tests/services/test_truncation.py::test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "magnitude-of-the-base",
        "tensors/composed/truncated.py",
        "steps = (*pair.program.steps[: -len(pair.program.since(pair.since))], Add(pair.since, new))",
        "steps = pair.program.steps[: -len(pair.program.since(pair.since))]",
        "tests/services/test_truncation.py::test_matrices_of_many_blocks[True]",
    ),
    Mutant(
        "energy-not-squared",
        "tensors/truncation/rank_choice.py",
        "values[k] ** 2 for values",
        "values[k] for values",
        "tests/tensors/truncation/test_truncate_ranks.py",
    ),
    Mutant(
        "spectral-error-of-the-last-kept",
        "tensors/truncation/report.py",
        "_ratio(module.singular_value(kept),",
        "_ratio(module.singular_value(kept - 1),",
        "tests/tensors/truncation/test_truncate_report.py",
    ),
)

REGISTRY: Final = (
    Mutant(
        "block-not-checked",
        "storage/reading.py",
        "if not self._right(first // BLOCK, block_digest(block)):",
        "if False:",
        "tests/storage/test_damage.py",
    ),
    Mutant(
        "block-list-not-checked",
        "storage/reading.py",
        "opened.size != len(data) or sha256_digest(data) != place.blocks_digest",
        "opened.size != len(data)",
        "tests/storage/test_damage.py",
    ),
    Mutant(
        "known-blob-not-read",
        "storage/blobs.py",
        "if place is not None and self._is_right(place, one.digests):",
        "if place is not None:",
        "tests/storage/test_damage.py",
    ),
    Mutant(
        "uploaded-bytes-not-compared",
        "storage/blobs.py",
        "if (digests.digest, digests.size) != (digest, staging.size):",
        "if digests.size != staging.size:",
        "tests/storage/test_staging.py",
    ),
    Mutant(
        "discarded-though-of-another",
        "storage/blobs.py",
        'if stored.stored_by != "none":',
        "if stored.key:",
        "tests/storage/test_blobs.py",
    ),
    Mutant(
        "linked-file-looks-old",
        "storage/filesystem.py",
        "status.st_ctime, UTC",
        "status.st_mtime, UTC",
        "tests/storage/test_filesystem.py",
    ),
    Mutant(
        "bucket-not-read-back",
        "storage/s3/writing.py",
        "if found.digest() != self._digest.digest():",
        "if False:",
        "tests/storage/test_s3.py",
    ),
    Mutant(
        "bucket-object-overwritten",
        "storage/s3/writing.py",
        "if self._bucket.find(key) is not None:",
        "if False:",
        "tests/storage/test_driver.py",
    ),
    Mutant(
        "number-given-again",
        "catalogue/publishing.py",
        "values(next_number=new.number + 1)",
        "values(next_number=new.number)",
        "tests/catalogue/test_publishing.py",
    ),
    Mutant(
        "grandparent-not-looked-at",
        "catalogue/ancestry.py",
        "(outdated[parent] or bool(above))",
        "outdated[parent]",
        "tests/catalogue/test_browse.py",
    ),
    Mutant(
        "wrong-parent",
        "services/parents.py",
        "revisions.pinnable(session, path, digest=digest)), None)",
        "revisions.pinnable(session, path)), None)",
        "tests/services/test_registry.py",
    ),
    Mutant(
        "parent-guessed",
        "services/parents.py",
        "if len(candidates) > 1:",
        "if len(candidates) > 99:",
        "tests/services/test_registry.py",
    ),
)
