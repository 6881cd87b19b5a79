"""What benchmarks of the service share: starting it, and a client that costs little."""
