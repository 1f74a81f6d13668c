"""Who may compute now: a gate for callers, and a budget of memory."""
