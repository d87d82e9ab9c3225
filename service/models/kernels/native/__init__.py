"""Gradient steps compiled to machine code in a separate process, used where they are faster."""
