"""Output adjusters, one file each: they correct the network's outputs."""
