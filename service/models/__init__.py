"""What runs: bundles, hosted models, their graphs, their machine code, and the one thread that runs them."""
