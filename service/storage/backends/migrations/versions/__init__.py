"""Migrations of the catalogue's tables, one file each, in order."""
