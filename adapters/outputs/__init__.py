"""Output adjusters: how outputs are corrected, one file each."""
