"""The demo: trains a small tree of adapters on real weights, publishes it, and checks what the registry hands out."""
