"""The commands about rules by which a registry changes a tree by itself."""
