"""Steps that learn by gradients, compiled to machine code beside the server, where that pays."""
