"""Edits of ONNX graphs: which tensors are quantised, Q/DQ, smoothing, FP16."""
