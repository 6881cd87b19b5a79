"""An S3 for trying out: moto's server, which keeps everything in memory and forgets it when it ends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet_registry.server.processes import Process, answers, free_port, start_process

BUCKET = "experts"
_START_SECONDS, _STOP_SECONDS = 60, 10


@contextmanager
def stand_in_s3(folder: Path) -> Iterator[tuple[str, dict[str, str], Process]]:
    """Run moto's server inside the block, with an empty bucket.

    Args:
        folder: The folder of the registry, for the log.

    Yields:
        The bucket's URI; the variables by which MLflow and boto find it; the process.

    Raises:
        RegistryError: moto is not installed, or does not start.
    """
    if importlib.util.find_spec("moto") is None:
        raise RegistryError("moto is not installed: --stand-in-s3 starts its server", "pip install 'zfleet[server]'")
    import boto3

    port = free_port()
    process = start_process("s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder)
    try:
        process.wait_for(lambda: answers("127.0.0.1", port), _START_SECONDS)
        url = f"http://127.0.0.1:{port}"
        # moto takes any key.
        keys = {"AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in", "AWS_DEFAULT_REGION": "us-east-1"}
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield f"s3://{BUCKET}", keys | {"MLFLOW_S3_ENDPOINT_URL": url}, process
    finally:
        process.stop(_STOP_SECONDS)
