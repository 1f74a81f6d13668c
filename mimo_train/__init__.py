"""Training of MIMO: the model, the data, the losses and the loop."""
