"""Learning z by reinforcement: rollouts, advantages, loss, and the loop that ties them together."""
