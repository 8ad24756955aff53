"""The family: one file a method (base.py says what it offers)."""
