"""Streams of all kinds and what may be done to them in any order, beside a model of what must come of it."""

import random
from collections import Counter
from dataclasses import dataclass, field

from tests.serving import images, infer_body

DURABILITIES = ("ephemeral", "periodic", "sync")
ADAPTERS = ("batch+tent", "unmix_tns", "ema")
INFER = "/v2/models/reference/infer"
WEIGHTS = {"infer": 80, "retry": 4, "reset": 3, "snapshot": 3, "restore": 3, "mode": 3, "delete": 2, "look": 2}
UNGUARDED = {"collapse": "off", "harm": "off"}
BODIES = [(images(1 + seed % 2, seed) * 8).round() / 8 for seed in range(16)]
"""Few images of few digits: it is not JSON that is tried."""


@dataclass
class Known:
    """What must hold of a stream, by what was answered."""

    steps: int = 0
    generation: int = 0
    mode: str = "adapt"
    last: tuple | None = None
    snapshots: list = field(default_factory=list)

    def saw(self, facts):
        """Compare with what a server tells of it."""
        steps, generation = (facts.get(name, facts.get(f"tta_{name}")) for name in ("steps", "generation"))
        assert steps == self.steps
        assert generation >= self.generation, "a generation went back"
        self.generation = generation


class Crowd:
    """Does one random thing after the other to one of many streams, and checks each answer."""

    def __init__(self, client, streams, seed=0):
        self.client, self.random = client, random.Random(seed)
        self.ids = [f"s{number}" for number in range(streams)]
        self.known, self.statuses, self.sent = {}, Counter(), 0

    def call(self, method, path, expected=200, **settings):
        response = self.client.request(method, path, **settings)
        self.statuses[response.status_code] += 1
        assert response.status_code == expected, (method, path, response.text)
        return response.json() if response.content else None

    def act(self):
        """Do the next thing."""
        stream_id = self.random.choice(self.ids)
        if stream_id not in self.known:
            self.create(stream_id)
            return
        (action,) = self.random.choices(list(WEIGHTS), weights=WEIGHTS.values())
        getattr(self, action)(stream_id, self.known[stream_id])

    def create(self, stream_id):
        number = self.ids.index(stream_id)
        kind = {"durability": DURABILITIES[number % 3], "adapter": ADAPTERS[number // 3 % 3], "guard": UNGUARDED}
        told = self.call("POST", "/v1/streams", 201, json={"id": stream_id, "model": "reference", **kind})
        self.known[stream_id] = Known()
        self.known[stream_id].saw(told)

    def infer(self, stream_id, known):
        self.sent += 1
        body = infer_body(self.random.choice(BODIES), stream_id, f"r{self.sent}")
        answer = self.call("POST", INFER, json=body)
        known.steps += known.mode == "adapt"
        known.last = (body, answer)
        known.saw(answer["parameters"])

    def retry(self, stream_id, known):
        if known.last is not None:
            body, answer = known.last
            again = self.call("POST", INFER, json=body)
            assert again["parameters"] == answer["parameters"], self.call("GET", f"/v1/streams/{stream_id}")
            assert again["outputs"] == answer["outputs"]
            self.look(stream_id, known)

    def reset(self, stream_id, known):
        known.steps, known.last = 0, None
        known.saw(self.call("POST", f"/v1/streams/{stream_id}/reset"))

    def snapshot(self, stream_id, known):
        told = self.call("POST", f"/v1/streams/{stream_id}/snapshots", 201)
        assert told["steps"] == known.steps
        known.snapshots.append((told["id"], known.steps))
        if len(known.snapshots) > 2:
            self.call("DELETE", f"/v1/snapshots/{known.snapshots.pop(0)[0]}", 204)

    def restore(self, stream_id, known):
        if known.snapshots:
            snapshot, steps = self.random.choice(known.snapshots)
            known.steps, known.last = steps, None
            known.saw(self.call("POST", f"/v1/streams/{stream_id}/restore", json={"snapshot": snapshot}))

    def mode(self, stream_id, known):
        known.mode = "frozen" if known.mode == "adapt" else "adapt"
        known.saw(self.call("PATCH", f"/v1/streams/{stream_id}", json={"mode": known.mode}))

    def delete(self, stream_id, known):
        for snapshot, _ in known.snapshots:
            self.call("DELETE", f"/v1/snapshots/{snapshot}", 204)
        self.call("DELETE", f"/v1/streams/{stream_id}", 204)
        del self.known[stream_id]

    def look(self, stream_id, known):
        known.saw(self.call("GET", f"/v1/streams/{stream_id}"))
