"""Models in the ONNX format, executed by ONNX Runtime."""
