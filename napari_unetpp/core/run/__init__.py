"""What is done with the network: tiling, inference, evaluation, training."""
