"""Normalizers: where norm layers get their statistics, one file each."""
