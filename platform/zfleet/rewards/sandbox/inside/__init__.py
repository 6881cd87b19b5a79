"""The programs that run inside the sandbox. They may import the standard library only, and nothing else of zfleet."""
