"""Stores as earlier versions wrote them, one for each schema of the catalogue."""
