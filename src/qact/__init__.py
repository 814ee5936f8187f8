"""Activations that know their context: Quantile Activation for PyTorch."""
