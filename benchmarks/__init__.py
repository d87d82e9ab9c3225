"""Benchmarks: what the engine reaches on public data, beside what public implementations reach on it."""
