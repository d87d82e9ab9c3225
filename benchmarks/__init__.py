"""Benchmarks of the engine and the server, and comparisons with public implementations on public data."""

import service  # noqa: F401 - it sets how threads wait, which must happen before PyTorch is loaded
