"""Planning imports: what a heap of folders becomes in a registry, computed in a private one that is thrown away."""
