"""Tables and lines of the operator's commands, without a server."""

import io

import pytest
from rich.console import Console

from service.cli.output import lists
from service.cli.remote import details, parsing, watch_lines
from service.cli.remote.connection import read_key
from service.cli.remote.errors import MistakeError
from service.client import EventView, SnapshotView, StreamRow, StreamView

STREAM = {
    "id": "camera-7",
    "model": "fashion",
    "adapter": "batch+eta",
    "options": {},
    "mode": "adapt",
    "guard": {},
    "adapt_batch_size": 1,
    "durability": "periodic",
    "resident": True,
    "generation": 12,
    "durable_generation": 12,
    "steps": 12,
    "waiting_images": 0,
    "state_bytes": 14_913,
    "created": 0.0,
    "last_used": 60.0,
    "signals": {"entropy": 0.26, "drift": 0.019, "source_agreement": 0.78},
    "choice": "",
    "shadow": None,
}
ROW = {
    "id": "camera-7", "model": "fashion", "adapter": "batch+eta", "mode": "adapt", "badge": "drifting", "reason": "",
    "generation": 12, "steps": 12, "requests": 12, "images": 96, "state_bytes": 14_913, "created": 0.0,
    "last_used": 60.0, "entropy": None, "drift": None, "agreement": None, "source_gap": 0.125, "spark": [],
}  # fmt: skip


def text(renderable, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_a_model_column_is_there_only_where_there_are_several_models():
    one = StreamView(**STREAM)
    other = StreamView(**STREAM | {"id": "camera-8", "model": "digits"})

    assert "fashion" not in text(lists.streams([one], {}, 120))
    assert "digits" in text(lists.streams([one, other], {}, 120))


@pytest.mark.parametrize(
    ("place", "shown"),
    [({"durability": "sync", "resident": False}, "sync, on disk"), ({"resident": True}, "periodic, in memory")],
)
def test_durability_and_place_are_shown(place, shown):
    stream = StreamView(**STREAM | place)

    assert shown in text(lists.streams([stream], {}, 160))
    assert shown in text(details.stream(stream, None))


def test_the_state_word_is_the_badge_and_else_the_mode():
    stream, row = StreamView(**STREAM), StreamRow(**ROW)

    assert "drifting" in text(lists.streams([stream], {"camera-7": row}, 120))
    assert "0.125" in text(lists.streams([stream], {"camera-7": row}, 120))
    assert "adapt " in text(lists.streams([stream], {}, 120))


def test_no_line_is_longer_than_the_terminal():
    stream = StreamView(**STREAM | {"id": "site-north-loading-dock-camera-12" * 2})

    for width in (60, 80, 120):
        assert max(map(len, text(lists.streams([stream], {}, width), width).splitlines())) <= width


def test_an_event_says_what_was_done_once():
    event = {"id": 4, "time": 0.0, "stream": "s", "model": "m", "reason": "one class took over", "figures": {}}

    assert lists.why(EventView(**event, kind="guard", action="rolled_back")) == "one class took over (rolled back)"
    assert lists.why(EventView(**event, kind="reset", action="reset")) == "one class took over"
    assert "one class took over" in text(lists.events([EventView(**event, kind="guard", action="")], 80), 80)


def test_a_note_has_a_column_where_there_is_one():
    snapshot = {
        "id": "a1", "stream": "s", "name": "g4", "model": "m", "adapter": "ema",
        "generation": 4, "steps": 4, "bytes": 2000, "created": 0.0, "note": "", "fingerprint": "", "sha256": "",
        "contains_inputs": False, "exact": True,
    }  # fmt: skip

    assert "note" not in text(lists.snapshots([SnapshotView(**snapshot)], 120))
    assert "good for months" in text(lists.snapshots([SnapshotView(**snapshot | {"note": "good for months"})], 120))


def test_a_watched_line_stands_under_its_headings():
    line = watch_lines.line(StreamView(**STREAM), 0.0).plain

    assert len(line) == len(watch_lines.HEADINGS)
    assert "0.26" in line


def test_names_in_square_brackets_are_no_markup():
    shown = text(lists.streams([StreamView(**STREAM | {"adapter": "[red]x[/red]"})], {}, 120))

    assert "[red]x[/red]" in shown


@pytest.mark.parametrize("typed", ["tent", "tent.lr", "tent.lr=", "lr=1", "=1"])
def test_an_option_of_another_form_is_a_mistake_that_shows_the_right_one(typed):
    with pytest.raises(MistakeError, match=r"expected one such as tent\.lr=1e-4"):
        parsing.options([typed], {})


def test_an_empty_key_file_is_a_mistake(tmp_path):
    file = tmp_path / "key"
    file.write_text("\n")

    with pytest.raises(MistakeError, match="is empty"):
        read_key(file)
