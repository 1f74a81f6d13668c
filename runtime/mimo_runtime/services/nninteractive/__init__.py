"""The HTTP protocol of nnInteractive: its clients segment one object of a volume by boxes, points, scribbles and lassos."""
