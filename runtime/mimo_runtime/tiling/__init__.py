"""Images larger than the model's input: overlapping tiles, each asked by name, stitched into one mask."""
