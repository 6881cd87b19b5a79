"""``zfleet submit``: a job whose driver runs on a cluster, through Ray's job server."""
