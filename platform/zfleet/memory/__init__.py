"""Memory of a job, computed before it starts: what one worker needs, and what the machine has for it."""
