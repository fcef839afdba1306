"""The variants of LoRA that PEFT can write, one file for an idea; `table` puts them together."""
