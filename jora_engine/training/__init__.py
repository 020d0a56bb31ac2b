"""Records in, adapter out: packing, loss, step, loop, checkpoints, the plan of a run and its process."""
