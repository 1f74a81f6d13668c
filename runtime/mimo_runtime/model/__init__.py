"""What a model is to a device: configuration, graph inputs and outputs, tokenizer."""
