"""What outlives the process: checkpoints, snapshots, events, histories."""
