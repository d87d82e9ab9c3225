"""One stream: its state, its step, its answers, and the table of all streams."""
