"""Views: strict on the server that makes them, tolerant in the client that reads them."""

import json

import pytest
from pydantic import ValidationError

from service.monitoring.guard import Policy
from service.views.events import EventList
from service.views.overview import StreamRow
from service.views.streams import StreamView

STREAM = {
    "id": "camera-7", "model": "m", "adapter": "ema", "options": {}, "mode": "adapt", "guard": {"harm": "reset"},
    "adapt_batch_size": 1, "durability": "sync", "resident": True, "generation": 3, "durable_generation": 3,
    "steps": 3, "waiting_images": 0, "state_bytes": 100, "created": 0.0, "last_used": 1.0, "signals": {},
    "choice": "", "shadow": None,
}  # fmt: skip
NEWER = {
    "mode": "rehearse", "durability": "mirrored", "guard": {"harm": "page_someone", "max_distance": 99.0, "novelty": 1},
    "mood": {"calm": True},
}  # fmt: skip
EVENT = {"id": 1, "time": 0.0, "kind": "reset", "stream": "s", "model": "m", "action": "", "reason": "", "figures": {}}


@pytest.mark.parametrize("field", NEWER)
def test_the_server_never_answers_a_field_or_value_that_the_api_does_not_document(field):
    with pytest.raises(ValidationError, match=field):
        StreamView(**STREAM | {field: NEWER[field]})


def test_the_client_keeps_fields_and_values_of_a_newer_server_and_prints_them_unchanged():
    view = StreamView.read(json.dumps(STREAM | NEWER))

    assert {name: getattr(view, name) for name in NEWER} == NEWER
    assert json.loads(view.json_text()) == STREAM | NEWER


def test_a_new_field_deep_in_a_page_is_kept_too():
    page = {"items": [EVENT | {"operator": "anna"}], "next": 2}

    assert json.loads(EventList.read(json.dumps(page)).json_text()) == page
    with pytest.raises(ValidationError, match="operator"):
        EventList(**page)


@pytest.mark.parametrize("document", [STREAM | {"mode": 7}, STREAM | {"guard": "off"}, {"id": "camera-7"}, []])
def test_the_client_refuses_an_answer_of_another_form(document):
    with pytest.raises(ValidationError):
        StreamView.read(json.dumps(document))


def test_a_guard_is_answered_with_every_rule_though_only_one_was_stored():
    assert StreamView(**STREAM).guard == Policy(harm="reset").model_dump()


def test_a_views_schema_lists_the_servers_values():
    schema = StreamView.model_json_schema()

    assert schema["additionalProperties"] is False
    assert schema["properties"]["mode"]["enum"] == ["adapt", "frozen", "shadow"]
    assert schema["properties"]["guard"] == {"$ref": "#/$defs/Policy"}
    assert "held" in StreamRow.model_json_schema()["properties"]["badge"]["enum"]
