"""Code that gradient learners share: the gradient step, filters, meta networks and activation checkpointing."""
