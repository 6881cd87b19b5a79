"""Names that the machine that submits a job and the job itself share. Nothing is imported: see ``requirements``."""

PROJECT = "zfleet"
SPEC_FILE = "zfleet-job.yaml"
"""The spec in the job's folder."""

KIND, RUN, BASE = "zfleet.kind", "zfleet.run", "zfleet.base"
"""Keys of the job's metadata: of its spec, the kind and what it makes; name and fingerprint of a base in a folder."""

STOP_SECONDS = 30
"""How long a job that is stopped has to end by itself. By default Ray kills it after three seconds."""
