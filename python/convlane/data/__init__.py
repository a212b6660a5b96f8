"""Data: loaders with prefetching threads, augmentation, and the preparation of pictures for networks."""

from convlane.data import augment
from convlane.data.folder import ImageFolder
from convlane.data.geometry import resample
from convlane.data.loader import Loader
from convlane.data.picture import read_image
from convlane.data.preprocess import Preprocessing, imagenet_categories, preprocessing

__all__ = [
    "ImageFolder",
    "Loader",
    "Preprocessing",
    "augment",
    "imagenet_categories",
    "preprocessing",
    "read_image",
    "resample",
]
