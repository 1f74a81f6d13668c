"""The bundle as a running system: many callers, memory over many requests, the start of a process, energy."""
