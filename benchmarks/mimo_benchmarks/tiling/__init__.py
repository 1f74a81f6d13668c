"""What tiles gain on images larger than the model's input."""
