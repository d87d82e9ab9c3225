"""Pure tensor functions, each small enough to read beside its equation."""
