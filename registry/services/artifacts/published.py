"""The kind ``published``: the stored files of an adapter or a base model, byte for byte."""

from __future__ import annotations

from registry.services.artifacts.inputs import stored_files
from registry.services.artifacts.plan import Builder, Built, Order


def _build(order: Order) -> Built:
    return Built(order.plan, stored_files(order.inputs.blobs, order.path.tip_files, order.inputs.opened))


PUBLISHED = Builder(_build)
