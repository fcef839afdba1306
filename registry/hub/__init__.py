"""The Hub-compatible views: a Hub for each kind of artifact, which takes pushes of adapters."""
