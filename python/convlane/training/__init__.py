"""Training: optimisers, learning rates, and a loop that puts them to work."""

from convlane.training import schedule
from convlane.training.optim import SGD, Adam, AdamW, Optimizer, RMSprop, clip_grad_norm

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "schedule"]
