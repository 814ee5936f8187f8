"""One network trained: epochs, schedules, losses, checkpoints, several processes."""
