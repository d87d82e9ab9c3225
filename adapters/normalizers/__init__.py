"""Normalizers, one file each: they decide which statistics norm layers use."""
