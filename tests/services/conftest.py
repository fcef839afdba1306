"""Registries and shelves for the tests here; several have their own."""

from tests.kit.registries import base, local, registry
from tests.kit.shelf import shelf

__all__ = ["base", "local", "registry", "shelf"]
