"""Data sets as the evaluation, training and calibration read them, and prompts drawn from their masks."""
