"""The graphs of a bundle: traced, validated, given a KV cache."""
