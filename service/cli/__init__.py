"""The command line, `acclimate`."""
