"""Intake: uploads, and checking bytes while they are stored."""
