"""What is chosen on ``val`` after training, and stored in the checkpoint."""
