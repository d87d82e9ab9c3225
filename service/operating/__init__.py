"""What operators do with a running server from a terminal: `acclimate streams`, `snapshots` and `events`."""
