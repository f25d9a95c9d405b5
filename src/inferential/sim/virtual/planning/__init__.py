"""Plans a fleet on so many devices: which model runs where, in what batches, and how often each robot is answered."""
