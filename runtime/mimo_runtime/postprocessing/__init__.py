"""From the outputs of the mask decoder to masks of the image."""
