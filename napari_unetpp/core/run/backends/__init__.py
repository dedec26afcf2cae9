"""What computes the network: PyTorch, or OpenVINO on processors; and which of them is faster."""
