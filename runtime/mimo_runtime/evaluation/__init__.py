"""Data sets, prompt sampling, the description grammar and the metrics: shared by training, calibration and acceptance."""
