"""The demo: trains and publishes a small tree of adapters on real weights, and compares what it fetches with PEFT."""
