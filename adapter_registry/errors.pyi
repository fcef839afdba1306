"""What type checkers see of ``adapter_registry.errors``: when the program runs, it is `registry.errors` itself."""

from registry.errors import *  # noqa: F403 (one and the same module)
