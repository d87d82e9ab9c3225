"""What the dashboard's tests send: drifting images to six streams, poison to one of them, labels that come late."""

import numpy as np

from service.client import Client
from service.demo.drift import STREAM, drifting
from service.models.bundle import read_bundle
from service.settings import EMBEDDED

CLASSES = read_bundle(EMBEDDED).classes
STREAMS = (
    {"id": "gate-3", "adapter": "ema"},
    {"id": "line-1", "adapter": "batch+tent"},
    {"id": "dock-2", "adapter": "source", "mode": "frozen"},
    {"id": "lab-4", "adapter": "ema+tent", "mode": "shadow"},
    {"id": "yard-9", "adapter": "auto"},
)
POISONED = {"id": "camera-7", "adapter": "batch+tent", "options": {"tent": {"lr": 0.5}}}


def send_drift(client):
    send_drift_to(client, [stream["id"] for stream in STREAMS])


def send_drift_to(client, streams):
    for number, part in enumerate(drifting(64, 64, 5)):
        if number < 7:
            for stream in streams:
                client.infer("fashion", "input", part.images, stream)


def send_poison(client):
    """Send one class alone to a learner that takes steps far too large, until the guard acts."""
    images, labels = stored()
    dresses = images[labels == CLASSES.index("Dress")]
    for number in range(20):
        start = number % 3 * 64
        answer = client.infer("fashion", "input", dresses[start : start + 64], "camera-7")
        if answer.facts["tta_action"] == "rolled_back":
            break
    else:
        raise AssertionError("no guard acted on the poisoned stream")
    for _ in range(6):
        client.infer("fashion", "input", dresses[:32], "camera-7")


def give_labels(client, stream="line-1"):
    """Send a request that is labelled later, and one more that shows what the labels said."""
    images, labels = stored()
    body = {
        "id": "late",
        "inputs": [
            {"name": "input", "shape": [16, 1, 28, 28], "datatype": "UINT8", "data": images[:16].ravel().tolist()}
        ],
        "parameters": {"sequence_id": stream},
    }
    client.call("POST", "/v2/models/fashion/infer", body)
    item = {"request": "late", "labels": labels[:16].tolist()}
    client.call("POST", f"/v1/streams/{stream}/feedback", {"items": [item]})
    client.infer("fashion", "input", images[16:32], stream)


def stored():
    with np.load(STREAM) as file:
        return file["images"][:, None], file["labels"].astype(np.int64)


def send(server, stream, count=1):
    images, _ = stored()
    with Client(server.url) as client:
        for number in range(count):
            client.infer("fashion", "input", images[number * 8 : number * 8 + 8], stream)
