"""What a registry can do, declared once."""
