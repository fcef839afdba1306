"""Joins the tensor core, the catalogue and the storage: one module a thing that users do."""
