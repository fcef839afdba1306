"""The only way by which a service queries other machines: which ones, for how long, and how much is read."""
