"""One object in a volume, segmented by what a user draws; shared by the protocols of viewers."""
