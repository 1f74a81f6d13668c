"""From data sets to batches: loading, augmentation, prompts, import, synthetic images."""
