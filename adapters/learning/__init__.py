"""What gradient learners share: the step, filters, meta networks, activation checkpointing."""
