"""V2 bytes to tensors and back: bodies, images, JSON within bounds."""
