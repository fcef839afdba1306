"""One request: its limits, errors, middleware, log and metrics."""
