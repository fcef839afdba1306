"""What runs inside vLLM: a resolver that gives it the composed adapter of any path, by reference."""
