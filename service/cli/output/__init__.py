"""Tables, lists and figures for a terminal."""
