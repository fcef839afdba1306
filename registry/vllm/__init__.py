"""A plugin for vLLM: a resolver that serves the composed adapter of any path, by reference."""
