"""Learners: which parameters learn and from what loss, one file each."""
