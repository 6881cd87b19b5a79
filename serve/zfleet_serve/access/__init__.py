"""Who may ask for what, how much, and in which order: API keys, limits, fair queueing and usage."""
