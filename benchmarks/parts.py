"""The parts of the table, in its order."""

from __future__ import annotations

from typing import Final

PARTS: Final = {
    "startup": "the first second of a command",
    "reads": "what requests cost a service, beside a bare uvicorn answer; workers",
    "growth": "lists, pages, searches, gc and fsck of catalogues of 10,000 and 100,000 revisions",
    "search": "searches as people type them, drawn, of catalogues of 10,000 and 100,000 revisions",
    "truncate": "lower ranks of a composed block, beside PEFT",
    "stats": "statistics of an adapter of a 7 B model from its factors, beside dense matrices",
    "extract": "the best LoRA of a full fine-tune, beside mergekit's extractor",
    "identify": "the parent of a merged folder among 1,000 revisions, beside reading the folder once",
    "pool": "a path in and out of a running model, beside PEFT",
    "pool_switch": "switching between paths beside a running model, beside PEFT",
    "pool_flat": "the same with up to 1,000 paths resident; first uses; memory",
    "pool_mixed": "batches whose rows follow different paths, beside PEFT and one call a path",
    "siblings": "several adapters trained at once, beside PEFT one after another",
    "merge": "merging a path to disk, beside copying and beside PEFT; publishing a large adapter",
    "service_catalogue": "publishes and lookups in process, beside MLflow and the bare statement",
    "service_http": "lookups and publishes of a service on PostgreSQL and S3, beside MLflow's server",
    "service_transfer": "an adapter through S3, beside boto3",
    "push": "an adapter pushed by huggingface_hub, beside registry publish",
    "ways": "what it costs a Hub client to send weights in the commit, by LFS, by Xet",
    "pages": "the web pages on a large registry, beside those of MLflow",
    "quantised": "decoding FP8, MXFP4 and NF4 into bf16, beside torch and the libraries",
    "hub": "merged models that are computed while they are read, beside stored copies",
    "follow": "names that are followed: at rest, and until a moved tag is in place",
    "images": "four LoRA files merged into a UNet of SDXL, beside diffusers and kohya's formulas; truncation",
}
"""Name of the module, and what it measures."""
