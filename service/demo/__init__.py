"""The embedded default: a small trained bundle and a real stream that the server can make drift."""
