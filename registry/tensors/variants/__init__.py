"""The variants of LoRA that PEFT can write, one file for an idea, put together in `registry.tensors.variants.table`."""
