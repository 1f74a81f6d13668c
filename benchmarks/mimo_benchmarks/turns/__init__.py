"""Measuring contenders in turns: their order, what their idle threads do, and the check against each one by itself."""
