"""Weights in files: `load_weights` reads what torch, NumPy and safetensors write, and executes nothing of it."""

from convlane.weights.files import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]
