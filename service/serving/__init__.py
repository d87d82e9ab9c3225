"""The path of a request, or of an operator's call, through the queue to the worker."""
