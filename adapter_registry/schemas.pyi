"""What type checkers see of ``adapter_registry.schemas``: when the program runs, it is `registry.schemas` itself."""

from registry.schemas import *  # noqa: F403 (one and the same module)
