"""The pages for running a registry: what was done, jobs, tokens, storage and health."""
