"""What each operation becomes in ONNX, one file for a family."""
