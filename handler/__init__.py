"""What travels in the archive: the preprocessing, the TorchServe handler and the smoke pictures."""
