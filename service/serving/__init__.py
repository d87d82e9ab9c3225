"""The way of a request, and of an operator's call, through the queue to the worker."""
