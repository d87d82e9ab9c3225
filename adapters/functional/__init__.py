"""Pure tensor functions, each small enough to compare with its equation."""
