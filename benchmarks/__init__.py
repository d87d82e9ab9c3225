"""Benchmarks: what the engine reaches on public data, beside what public implementations reach on it."""

import service  # noqa: F401 - it settles how threads wait, before PyTorch is loaded
