"""The version, here alone, so that who writes it into a file need not import the package."""

__version__ = "0.1.0"
