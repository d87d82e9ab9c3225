"""Traffic that shows everything that a server counts: streams in good health, and some that are ill in known ways."""

from collections.abc import Iterator
from itertools import cycle

import httpx
import numpy as np
import torch

from service.demo.drift import Batch, drifting
from service.storage.snapshots.format import pack, unpack
from tests.serving import infer_body

MODEL = "fashion"
OCTETS = {"Content-Type": "application/octet-stream"}
TOO_FAST = {"tent": {"lr": 0.3}}
FAR_TOO_LARGE = 1e30


class Traffic:
    """Sends the same images to streams of different settings, round after round.

    healthy: its images change from clean to noisy and back, and detectors find that. selective: learns from the images
    that it is sure of. patient: waits for larger batches. astray: learns too fast, and its guard finds harm. reborn: is
    reset every second step. broken, stopped: restored from a snapshot whose answers are not finite; the guard throws
    their steps away, or freezes the stream. The model `tripwire` fails.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._batches = cycle(_batches())
        self._create("healthy")
        self._create("selective", adapter="batch+eta")
        self._create("patient", adapter="batch+tent", adapt_batch_size=32)
        self._create("astray", adapter="batch+tent", options=TOO_FAST, guard={"pause": 0})
        self._create("reborn", adapter="batch+tent", guard={"every": 2})
        self._create("broken", adapter="batch+tent")
        self._create("stopped", adapter="batch+tent", guard={"non_finite": "freeze"})
        broken = self._broken_snapshot()
        for stream in ("broken", "stopped"):
            self.call("POST", f"/v1/streams/{stream}/restore", json={"snapshot": broken})

    def round(self) -> None:
        """Send one batch to every stream, and what each round has of all else."""
        batch = next(self._batches)
        x = (batch.images / 255).astype(np.float32)
        for stream in ("healthy", "selective", "astray", "reborn", "broken", "stopped"):
            answer = self._infer(x, stream)
        self._label("stopped", answer["id"], batch.labels)
        for images in np.split(x, 4):
            self._infer(images, "patient")
        self.call("POST", "/v1/streams/selective/reset")
        self.call("POST", "/v1/streams/healthy/restore", refused=404, json={"snapshot": "gone"})
        self._infer(x[:, :, :3], "healthy", refused=422)
        self._trip()

    def call(self, method: str, path: str, *, refused: int | None = None, **settings: object) -> httpx.Response:
        response = self._client.request(method, path, **settings)
        assert response.is_success if refused is None else response.status_code == refused, response.text
        return response

    def _create(self, stream: str, **settings: object) -> None:
        self.call("POST", "/v1/streams", json={"id": stream, "model": MODEL, **settings})

    def _infer(self, x: np.ndarray, stream: str, **settings: object) -> dict:
        body = infer_body(x, stream)
        body["inputs"][0]["name"] = "input"
        return self.call("POST", f"/v2/models/{MODEL}/infer", json=body, **settings).json()

    def _label(self, stream: str, request: str, labels: np.ndarray) -> None:
        item = {"request": request, "labels": labels.tolist()}
        self.call("POST", f"/v1/streams/{stream}/feedback", json={"items": [item]})

    def _trip(self) -> None:
        body = infer_body(np.ones((1, 3, 16, 16), np.float32), "tripped")
        self.call("POST", "/v2/models/tripwire/infer", refused=500, json=body)

    def _broken_snapshot(self) -> str:
        """Upload a snapshot of finite weights whose answers are not; a restore refuses spoiled monitors."""
        taken = self.call("POST", "/v1/streams/broken/snapshots").json()["id"]
        manifest, tensors = unpack(self.call("GET", f"/v1/snapshots/{taken}/download").content)
        self.call("DELETE", f"/v1/snapshots/{taken}")
        spoiled = {name: x * FAR_TOO_LARGE if _is_learned(name, x) else x for name, x in tensors.items()}
        return self.call("POST", "/v1/snapshots", content=pack(manifest, spoiled), headers=OCTETS).json()["id"]


def _is_learned(name: str, x: torch.Tensor) -> bool:
    return x.is_floating_point() and not name.startswith("monitors/")


def _batches() -> Iterator[Batch]:
    """Yield three batches of clean and three of noisy images."""
    for batch, _ in zip(drifting(images_per_domain=96, batch=32, severity=5), range(6), strict=False):
        yield batch
