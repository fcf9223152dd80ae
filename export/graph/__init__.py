"""The graphs of exported files: candidates, suppression, and NVIDIA's node, as ONNX operators."""
