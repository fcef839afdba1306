"""The frame of everything that is served over HTTP: access, bounds, bodies by range, errors, log and metrics."""
