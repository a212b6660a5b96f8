"""A converter for each class of layers, by families."""
