"""Edits of ONNX graphs: which tensors are quantized, Q/DQ, smoothing, FP16."""
