"""Training: optimisers, learning-rate schedules, and a training loop."""

from convlane.training import schedule
from convlane.training.checkpoint import load_checkpoint, save_checkpoint
from convlane.training.fit import evaluate, fit, predict
from convlane.training.history import History
from convlane.training.metrics import MeanIoU, Tally, accuracy, top5
from convlane.training.optim import SGD, Adam, AdamW, Optimizer, RMSprop, clip_grad_norm
from convlane.training.transfer import freeze, freeze_all_but, precompute_features, replace_head, split_head

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "History",
    "MeanIoU",
    "Optimizer",
    "RMSprop",
    "Tally",
    "accuracy",
    "clip_grad_norm",
    "evaluate",
    "fit",
    "freeze",
    "freeze_all_but",
    "load_checkpoint",
    "precompute_features",
    "predict",
    "replace_head",
    "save_checkpoint",
    "schedule",
    "split_head",
    "top5",
]
