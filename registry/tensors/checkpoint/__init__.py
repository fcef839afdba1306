"""From adapter_config.json and a header to what an adapter does to its base, or a refusal by name."""
