"""Reading the tree: base models, revisions, lineage, search."""
