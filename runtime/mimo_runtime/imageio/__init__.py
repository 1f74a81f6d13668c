"""Images from files and arrays. Knows nothing of models or engines."""
