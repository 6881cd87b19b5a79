"""What runs inside the sandbox: the standard library alone, and nothing else of zfleet's."""
