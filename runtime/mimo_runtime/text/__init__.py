"""Questions, the answer grammar, text generation and the edit of the finished sentence."""
