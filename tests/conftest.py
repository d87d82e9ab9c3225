"""One torch thread: the tests' networks are small, and two cores are shared with the servers they start."""

import torch

torch.set_num_threads(1)
