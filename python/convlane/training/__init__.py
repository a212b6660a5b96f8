"""Training: optimisers, learning rates, and a loop that puts them to work."""

from convlane.training import schedule
from convlane.training.checkpoint import load_checkpoint, save_checkpoint
from convlane.training.fit import evaluate, fit, predict
from convlane.training.history import History
from convlane.training.metrics import accuracy, top5
from convlane.training.optim import SGD, Adam, AdamW, Optimizer, RMSprop, clip_grad_norm

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "History",
    "Optimizer",
    "RMSprop",
    "accuracy",
    "clip_grad_norm",
    "evaluate",
    "fit",
    "load_checkpoint",
    "predict",
    "save_checkpoint",
    "schedule",
    "top5",
]
