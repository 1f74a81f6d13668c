"""The page of the service: its files, pictures of stored images for it, and the order of the frames of a series."""
