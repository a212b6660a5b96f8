"""Data: loaders that work ahead in threads, and augmentation."""

from convlane.data import augment
from convlane.data.geometry import resample
from convlane.data.loader import ImageFolder, Loader, read_image

__all__ = ["ImageFolder", "Loader", "augment", "read_image", "resample"]
