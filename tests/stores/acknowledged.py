"""What holds of a `sync` stream after its server ended, however that was."""

from tests.stores.control import view
from tests.stores.requests import infer


def check_nothing_acknowledged_is_lost(client, stream, senders, acknowledged):
    """Check what was kept against what was answered, and send what was cut off again."""
    last = max((answer.generation for answer in acknowledged), default=0)
    cut_off = [sender for sender in senders if sender.unanswered is not None]
    now = view(client, stream)
    assert last <= now["generation"] <= last + len(cut_off)
    assert now["generation"] == now["durable_generation"] == now["steps"]

    retried = sorted(sender.send(client).generation for sender in cut_off)
    assert retried == list(range(last + 1, last + 1 + len(cut_off)))


def check_each_request_is_one_step(client, stream, acknowledged):
    """Check that each request was learned from once, and that a retry gets the first answer."""
    for newest in sorted(acknowledged, key=lambda answer: answer.generation)[-2:]:
        assert infer(client, newest.request).same_as(newest), "a retry is answered as before"

    now = view(client, stream)
    assert sorted(answer.generation for answer in acknowledged) == list(range(1, len(acknowledged) + 1))
    assert all(answer.generation == answer.durable_generation == answer.steps for answer in acknowledged)
    assert now["generation"] == now["steps"] == len(acknowledged)
