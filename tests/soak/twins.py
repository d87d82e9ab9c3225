"""A stream under test beside its twin, which gets the same requests in a server that never rests or restarts."""

from dataclasses import dataclass, field

from tests.applications import INFER
from tests.serving import images, infer_body, outputs

FIXED = images(4, seed=999)
"""What is asked after a snapshot, and again after each restore of it."""
UNGUARDED = {"collapse": "off", "harm": "off"}
"""A guard's good states live in memory: what it goes back to is not what is compared here."""
LOGGED = 32
"""Answers that a server keeps for retries, by default."""


@dataclass
class Sent:
    """A request that was answered."""

    request_id: str
    seed: int
    count: int
    answer: dict


@dataclass
class Taken:
    """A snapshot in both servers, and what came next on the fixed images."""

    ids: tuple[str, str]
    next_outputs: list


@dataclass
class Pair:
    """What is known of a stream by what was answered.

    Attributes:
        generation: The greatest that was seen.
        sent: Answers that a retry gets again.
    """

    id: str
    durability: str
    generation: int = 0
    sent: list[Sent] = field(default_factory=list)

    def saw(self, generation: int) -> None:
        assert generation >= self.generation, "a generation went back"
        self.generation = generation


def create(tested, twins, stream_id, adapter, batch, durability):
    """Make the stream and its twin."""
    body = {"id": stream_id, "adapter": adapter, "adapt_batch_size": batch, "guard": UNGUARDED}
    tested.create(**body, durability=durability)
    twins.create(**body, durability="ephemeral")
    return Pair(stream_id, durability)


def infer(tested, twins, pair, x, request_id=None):
    """Ask both; they answer alike, to the last bit."""
    answers = [api.infer(x, pair.id, request_id) for api in (tested, twins)]
    facts, twin = (answer["parameters"] for answer in answers)
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert (facts["tta_steps"], facts["tta_action"]) == (twin["tta_steps"], twin["tta_action"])
    pair.saw(facts["tta_generation"])
    return answers[0]


def retry(tested, pair, sent):
    """Send a request again; it is answered as it was, and nothing is learned."""
    body = infer_body(images(sent.count, sent.seed), pair.id, sent.request_id)
    again = tested("POST", INFER, json=body)
    assert again.status_code == 200, again.text
    assert again.json() == sent.answer
    assert tested.stream(pair.id)["generation"] == pair.generation


def called(api, method, path, status=200, **settings):
    """Call, and return the body of an answer of the expected status."""
    response = api(method, path, **settings)
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def snapshot(tested, twins, pair):
    """Snapshot both, and record what they answer next on the fixed images."""
    ids = tuple(called(api, "POST", f"/v1/streams/{pair.id}/snapshots", 201)["id"] for api in (tested, twins))
    return Taken(ids, infer(tested, twins, pair, FIXED)["outputs"])


def restore(tested, twins, pair, taken):
    """Go back to a snapshot; the next answer is the one recorded then."""
    for api, snapshot_id in zip((tested, twins), taken.ids, strict=True):
        called(api, "POST", f"/v1/streams/{pair.id}/restore", json={"snapshot": snapshot_id})
    pair.sent.clear()
    answer = infer(tested, twins, pair, FIXED)
    assert answer["outputs"] == taken.next_outputs
    assert outputs(answer)["labels"].shape == (len(FIXED),)


def reset(tested, twins, pair):
    """Begin anew in both."""
    pair.sent.clear()
    for api in (tested, twins):
        called(api, "POST", f"/v1/streams/{pair.id}/reset")
    pair.saw(tested.stream(pair.id)["generation"])
