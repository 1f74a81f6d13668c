"""Answers and findings, and the folder that ``mimo-run predict`` writes."""
