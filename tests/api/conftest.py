"""A service of the library, for the tests here."""

from tests.kit.library import admin, library, log, service

__all__ = ["admin", "library", "log", "service"]
