"""Heaps of folders as teams leave them: what each folder is, by a table of kinds, and where it lies. Needs no torch."""
