"""The ring of good states: ages, bounds, and ways back that lead further each time."""

from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from service.streams.disk_spill import Spill
from service.streams.good_states import GoodState, GoodStates


@dataclass(frozen=True)
class Made:
    """A state of two tensors, of which states may share one."""

    shared: Tensor
    own: Tensor


SHARED = torch.zeros(100)
BYTES = 4 * 100
"""Of each of a made state's tensors."""


def good(steps):
    return GoodState(Made(SHARED, torch.zeros(100)), steps, generation=steps, accuracy=0.9)


def ring(steps, limit_bytes=10**9):
    made = GoodStates(limit_bytes, spill=None)
    for step in steps:
        made = made.with_newest(good(step))
    return made


def ages(made):
    return [made.kept[0].steps - state.steps for state in made.kept]


def test_the_first_state_is_kept_alone():
    assert ages(ring([7])) == [0]


def test_at_most_three_are_kept_the_newest_first():
    for count in range(1, 600):
        kept = ages(ring(range(count - 3 if count > 3 else 0, count)))
        assert len(kept) <= 3
        assert kept == sorted(set(kept))


@pytest.mark.parametrize("every", [1, 5, 16, 50, 100])
def test_on_a_long_stream_the_ages_stay_about_1_16_and_256(every):
    made, seen = GoodStates(10**9), []
    for step in range(0, 3000 * every, every):
        made = made.with_newest(good(step))
        seen.append(ages(made))

    settled = seen[1000:]
    assert all(len(kept) == 3 for kept in settled)
    assert all(kept[0] == 0 for kept in settled)
    assert all(kept[1] <= max(2 * 16, 2 * every) for kept in settled)
    assert all(kept[2] <= max(2 * 256, 3 * every) for kept in settled)
    means = [sum(kept[number] for kept in settled) / len(settled) for number in (1, 2)]
    assert 8 <= means[0] <= max(32, 2 * every)
    assert 128 <= means[1] <= 512


def test_states_that_come_seldom_are_the_three_newest():
    assert ages(ring(range(0, 10_000, 1000))) == [0, 1000, 2000]


def test_a_state_replaces_those_that_are_not_older():
    made = ring([10, 20, 30]).with_newest(good(20))

    assert [state.steps for state in made.kept] == [20, 10]


def test_tensors_that_states_share_are_counted_once():
    assert ring([1]).size_bytes == 2 * BYTES
    assert ring([1, 2, 3]).size_bytes == 4 * BYTES


@pytest.mark.parametrize(("limit", "kept"), [(4 * BYTES, 3), (4 * BYTES - 1, 2), (2 * BYTES, 1), (2 * BYTES - 1, 0)])
def test_the_oldest_leave_where_bytes_do_not_suffice(limit, kept):
    made = ring([1, 2, 3], limit)

    assert [state.steps for state in made.kept] == [3, 2, 1][:kept]
    assert made.size_bytes <= limit


def test_each_way_back_leads_further():
    made = ring([0, 100, 300])

    assert [state.steps for state in made.kept] == [300, 100, 0]
    assert [state.steps for state in made.without_newest().kept] == [100, 0]
    assert made.without_newest().without_newest().without_newest().without_newest().kept == ()


@pytest.fixture
def spill(tmp_path):
    return Spill(tmp_path / "spilled")


def files(spill):
    return sorted(spill.folder.iterdir())


def test_what_is_beyond_the_bytes_goes_to_files_and_comes_back_equal(spill):
    states = [good(steps) for steps in (1, 2, 3)]
    states = [replace(state, adapter=Made(SHARED, torch.full((100,), float(state.steps)))) for state in states]
    made = GoodStates(2 * BYTES, spill)
    for state in states:
        made = made.with_newest(state)

    assert [state.steps for state in made.kept] == [3, 2, 1]
    assert made.size_bytes == 2 * BYTES
    assert len(files(spill)) == 2
    for kept, state in zip(made.kept, reversed(states), strict=True):
        again = kept.state(Made(SHARED, torch.zeros(100)))
        assert torch.equal(again.own, state.adapter.own)
        assert torch.equal(again.shared, SHARED)


def test_the_newest_goes_to_a_file_too_where_there_is_no_memory_at_all(spill):
    made = GoodStates(0, spill).with_newest(good(1))

    assert made.size_bytes == 0
    assert torch.equal(made.kept[0].state(Made(SHARED, SHARED)).own, torch.zeros(100))


def test_a_file_lives_as_long_as_a_ring_holds_on_to_it(spill):
    before = GoodStates(0, spill).with_newest(good(1))
    after = before.without_newest()

    assert len(files(spill)) == 1
    assert before.kept[0].state(Made(SHARED, SHARED)) is not None
    del before
    assert (files(spill), after.kept) == ([], ())


def test_a_long_stream_leaves_no_files_behind(spill):
    made = GoodStates(BYTES, spill)
    for steps in range(0, 2000, 10):
        made = made.with_newest(good(steps))

    assert len(files(spill)) == 3


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_file_that_is_lost_or_damaged_gives_no_state(spill, harm):
    made = GoodStates(0, spill).with_newest(good(1))
    file = files(spill)[0]
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-7] if harm == "cut" else safetensors.torch.save({"own": torch.zeros(3)}))

    assert made.kept[0].state(Made(SHARED, SHARED)) is None


def test_a_folder_that_cannot_be_written_costs_the_oldest_states_and_nothing_else(spill):
    made = GoodStates(2 * BYTES, spill).with_newest(good(1))
    spill.folder.rmdir()

    made = made.with_newest(good(2))

    assert [state.steps for state in made.kept] == [2]


def test_a_new_process_removes_what_an_earlier_one_put_aside_and_nothing_else(tmp_path):
    (tmp_path / f"{24 * 'a'}.spilled").write_bytes(b"left")
    (tmp_path / "mine.txt").write_bytes(b"kept")

    Spill(tmp_path)

    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
