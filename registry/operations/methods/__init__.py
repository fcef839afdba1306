"""The methods of a registry, by what they are for; `registry.operations.registry.Registry` has them all."""
