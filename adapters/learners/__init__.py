"""Learners, one file each: they decide which parameters learn and from which loss."""
