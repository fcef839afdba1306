"""One PEFT adapter that equals a whole path."""
