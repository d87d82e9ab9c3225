"""Everything that outlives the process: checkpoints, snapshots, events, histories."""
