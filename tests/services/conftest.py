"""Registries for the tests here; several have their own."""

from tests.kit.registries import base, local, registry

__all__ = ["base", "local", "registry"]
