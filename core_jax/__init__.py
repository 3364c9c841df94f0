"""What the sibling packages share: mesh, sharding, attention, layers, checkpoints, the training loop, video decoding."""
