"""Joins the tensor core, the catalogue and the storage: one module per use case."""
