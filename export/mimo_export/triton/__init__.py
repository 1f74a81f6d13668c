"""A bundle as a model repository of the Triton Inference Server: ``mimo-export triton``."""
