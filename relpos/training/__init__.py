"""The training loop for every task, and what it rests on: step, optimizer, checkpoints, records."""
