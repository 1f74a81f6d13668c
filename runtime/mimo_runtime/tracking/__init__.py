"""One target followed over frames: video, a live camera, and the slices of a volume."""
