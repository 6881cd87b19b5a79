"""What the benchmark of dispatchers measures, and on what."""
