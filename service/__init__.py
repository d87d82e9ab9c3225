"""The server: hosts a frozen model and gives every stream its own adapted state, over HTTP."""
