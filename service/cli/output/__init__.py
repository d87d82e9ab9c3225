"""Tables, lists and numbers for a terminal."""
