"""Where the time of an answer goes: stages, engines, operators, and the causes of what engines do not take."""
