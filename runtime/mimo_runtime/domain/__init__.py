"""Whether an image is like those that the model was trained on: statistics stored with the model, and the check of an image."""
