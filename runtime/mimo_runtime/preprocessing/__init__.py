"""From an image and a request to the inputs of the graphs."""
