"""One torch thread: the tests' networks are small, and two cores are shared with the servers they start."""

import os

import torch

torch.set_num_threads(1)
os.environ["ACCLIMATE_COMPILED"] = "false"  # graphs take seconds to make; the tests of graphs ask for them
