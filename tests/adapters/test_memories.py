"""RoTTA's and NOTE's memories by their statistics, and how the learners use them."""

from collections import Counter

import pytest
import torch

from adapters import create
from adapters.errors import UnfitModelError
from adapters.functional import category_memory, places, reservoir
from adapters.source import SourceModel
from adapters.state import flatten
from tests.models import reference_source

LONG_TAIL = [1000, 400, 160, 64, 26, 10, 4, 2, 1, 1]


def labels_of(stream):
    """Labels of a long-tailed stream in random order, or of one that shows each class in one long run."""
    if stream == "correlated":
        return torch.arange(10).repeat_interleave(150)
    ordered = torch.arange(10).repeat_interleave(torch.tensor(LONG_TAIL))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(0))]


def pictures(count):
    """Images that tell their number in the order of arrival."""
    return torch.stack([torch.arange(count) % 256, torch.arange(count) // 256], 1).to(torch.uint8)


def entropies_of(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 2.3


def draws_of(count, seed=0):
    return torch.rand(count, reservoir.DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def offer(memory, labels, seed=0):
    """The memory after as many images as there are labels."""
    images = pictures(len(labels))
    if isinstance(memory, reservoir.Reservoir):
        return reservoir.insert(memory, images, labels, draws_of(len(labels), seed))
    scoring = category_memory.Scoring(10)
    return category_memory.insert(memory, images, labels, entropies_of(len(labels), seed), scoring)


def sizes(memory):
    return Counter(entry.label for entry in places.entries(memory.places))


def category(capacity=64):
    return category_memory.empty(capacity, (2,), torch.float32)


def pool(capacity=64):
    return reservoir.empty(capacity, (2,), 10)


both_memories = pytest.mark.parametrize("make", [category, pool], ids=["category_memory", "reservoir"])
both_streams = pytest.mark.parametrize("stream", ["long_tailed", "correlated"])


@both_streams
@pytest.mark.parametrize("capacity", [64, 20, 7])
def test_the_category_memory_never_holds_more_of_a_class_than_its_share(stream, capacity):
    memory, most = category(capacity), -(-capacity // 10)
    for label in labels_of(stream):
        memory = offer(memory, label[None])
        assert max(sizes(memory).values()) <= most

    came = Counter(labels_of(stream).tolist())
    assert sum(sizes(memory).values()) == min(capacity, sum(min(most, count) for count in came.values()))


@both_streams
def test_the_reservoir_is_full_and_as_balanced_as_what_came_allows(stream):
    labels = labels_of(stream)
    memory = offer(pool(), labels)
    held, came = sizes(memory), Counter(labels.tolist())

    assert sum(held.values()) == 64
    most = max(held.values())
    for label, count in came.items():
        # A class is as large as the largest but for the one image that has just given way, or as all that came of it.
        assert held[label] >= min(count, most - 1)


def test_a_plain_reservoir_of_the_same_stream_would_not_be_balanced():
    labels = labels_of("long_tailed")
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:64]

    plain = Counter(labels[chosen].tolist())

    assert plain[0] > 30
    assert sizes(offer(pool(), labels))[0] < 20


def test_every_arrival_of_a_class_is_as_likely_to_stay_in_the_reservoir():
    trials, count, capacity = 1000, 80, 8
    labels = torch.full((count,), 3)
    kept = torch.zeros(count)
    for seed in range(trials):
        memory = offer(pool(capacity), labels, seed)
        kept[memory.places.arrivals] += 1

    share = capacity / count
    sigma = (share * (1 - share) / trials) ** 0.5
    assert (kept / trials - share).abs().max() < 4 * sigma  # the largest of 80 exceeds it once in 200 seeds
    # The sum of squared deviations is chi-squared: 79 degrees of freedom, standard deviation 12.6.
    assert ((kept / trials - share) / sigma).square().sum() < 79 + 4 * 12.6


def test_an_image_of_a_largest_class_stays_with_the_share_of_its_class_that_is_stored():
    full = offer(pool(8), torch.tensor([3] * 6 + [5] * 2))
    full = offer(full, torch.tensor([3] * 14))
    assert full.counts[3] == 20

    def stays(u_keep):
        draws = torch.tensor([[0.5, 0.5, u_keep]], dtype=torch.float64)
        after = reservoir.insert(full, pictures(1), torch.tensor([3]), draws)
        return bool((after.places.arrivals == 22).any())

    share = sizes(full)[3] / 21  # this arrival counts too
    assert stays(share)
    assert not stays(share + 1e-9)


def test_an_image_of_a_small_class_takes_the_place_of_one_of_a_largest_class_whatever_is_drawn():
    full = offer(pool(8), torch.tensor([3, 3, 3, 5, 5, 5, 7, 7]))

    for u_class, gave_way in ((0.0, 3), (0.49, 3), (0.5, 5), (0.999, 5)):
        draws = torch.tensor([[u_class, 0.0, 0.999]], dtype=torch.float64)
        after = reservoir.insert(full, pictures(1), torch.tensor([7]), draws)
        assert sizes(after) == sizes(full) + Counter([7]) - Counter([gave_way])


@both_memories
def test_images_offered_together_or_one_by_one_make_the_same_memory(make):
    labels, images = labels_of("long_tailed")[:200], pictures(200)
    entropies, draws, scoring = entropies_of(200), draws_of(200), category_memory.Scoring(10)

    def insert(memory, rows):
        if make is pool:
            return reservoir.insert(memory, images[rows], labels[rows], draws[rows])
        return category_memory.insert(memory, images[rows], labels[rows], entropies[rows], scoring)

    together, alone = insert(make(), slice(None)), make()
    for number in range(200):
        alone = insert(alone, slice(number, number + 1))

    expected = flatten(alone)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in flatten(together).items())


@both_memories
def test_a_memory_reads_out_its_own_images_by_class_and_then_as_they_came(make):
    memory = offer(make(), labels_of("long_tailed"))
    entries = places.entries(memory.places)

    numbers = memory.places.images[places.rows(memory.places)].long() @ torch.tensor([1, 256])

    assert numbers.tolist() == [entry.arrival for entry in entries]
    assert entries == sorted(entries, key=lambda entry: (entry.label, entry.arrival))


@both_memories
def test_an_emptied_memory_is_a_fresh_one(make):
    memory = offer(make(), labels_of("correlated"))
    empty = (category_memory if make is category else reservoir).emptied(memory)

    expected = flatten(make())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in flatten(empty).items())
    assert memory.places.filled > 0.9


def test_of_equally_good_images_the_one_that_is_there_stays():
    scoring = category_memory.Scoring(2, age_weight=0.0)
    memory = category_memory.insert(category(2), pictures(2), torch.tensor([0, 1]), torch.tensor([0.5, 0.6]), scoring)

    equal = category_memory.insert(memory, pictures(1), torch.tensor([0]), torch.tensor([0.5]), scoring)
    surer = category_memory.insert(memory, pictures(1), torch.tensor([0]), torch.tensor([0.4]), scoring)

    assert [entry.arrival for entry in places.entries(equal.places)] == [0, 1]
    assert [entry.arrival for entry in places.entries(surer.places)] == [2, 1]


def test_a_model_of_one_class_has_a_memory_too():
    memory, scoring = category(4), category_memory.Scoring(1)
    labels, entropies = torch.zeros(9, dtype=torch.int64), torch.zeros(9)

    memory = category_memory.insert(memory, pictures(9), labels, entropies, scoring)

    assert [entry.arrival for entry in places.entries(memory.places)] == [5, 6, 7, 8]


def batch(count, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def stepped(spec, xs, **options):
    learner = spec.rpartition("+")[2]
    adapter = create(spec, **{learner: options})
    prepared = adapter.prepare(reference_source())
    states, outputs = [adapter.init(prepared)], []
    for x in xs:
        output, state = adapter.step(prepared, states[-1], x)
        states.append(state)
        outputs.append(output)
    return adapter, prepared, states, outputs


def updates(state):
    learner = state.learner
    return int((learner.student if hasattr(learner, "student") else learner.learning).optimizer.count)


both_learners = pytest.mark.parametrize("spec", ["rotta", "note", "unmix_tns+rotta", "batch+rotta", "source+note"])


@both_learners
def test_statistics_and_parameters_move_only_at_updates(spec):
    memory_alone = {"observe_stream": False} if spec.endswith("rotta") else {}
    batches = [batch(5, seed) for seed in range(3)]
    _, _, states, outputs = stepped(spec, batches, period=10, capacity=8, **memory_alone)

    assert [updates(state) for state in states] == [0, 0, 1, 1]
    assert ["loss" in output.signals for output in outputs] == [False, True, False]
    norms = [flatten(state.norm) for state in states]
    for before, after in ((0, 1), (2, 3)):
        assert all(torch.equal(tensor, norms[after][name]) for name, tensor in norms[before].items())
    moved = any(not torch.equal(tensor, norms[2][name]) for name, tensor in norms[1].items())
    assert moved == (not spec.startswith("source"))


@both_learners
def test_several_updates_fall_within_one_call_and_the_answer_is_from_before_them(spec):
    x = batch(30)
    adapter, prepared, states, outputs = stepped(spec, [x], period=8, capacity=8)

    assert updates(states[1]) == 3
    assert int(states[1].learner.memory.places.arrived) == 30
    expected = adapter.predict(prepared, states[0], x)
    torch.testing.assert_close(outputs[0].logits, expected.logits, atol=0, rtol=0)
    assert not torch.equal(adapter.predict(prepared, states[1], x).logits, expected.logits)


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_classes_within_a_call_are_those_predicted_before_its_first_update(spec):
    x = batch(30)
    adapter, prepared, states, _ = stepped(spec, [x], period=8, capacity=8, lr=0.5)
    predicted = adapter.predict(prepared, states[0], x).logits.argmax(1)

    entries = places.entries(states[1].learner.memory.places)

    assert entries
    assert all(entry.label == predicted[entry.arrival] for entry in entries)


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_answers_do_not_depend_on_batch_mates(spec):
    x = batch(12)
    _, _, _, together = stepped(spec, [x], period=64)
    _, _, _, alone = stepped(spec, x.split(1), period=64)

    logits = torch.cat([output.logits for output in alone])
    torch.testing.assert_close(together[0].logits, logits, atol=1e-5, rtol=0)  # kernels differ by batch size


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_memories_keep_bytes_and_clamp_what_lies_outside_the_value_range(spec):
    _, _, states, _ = stepped(spec, [batch(4) * 3 - 1])
    memory = states[1].learner.memory.places

    assert memory.images.dtype == torch.uint8
    expected = (batch(4) * 3 - 1).clamp(0, 1)
    order = [entry.arrival for entry in places.entries(memory)]
    torch.testing.assert_close(places.recall(memory, (0.0, 1.0)), expected[order], atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("spec", ["rotta", "note"])
def test_an_image_without_a_finite_answer_is_not_remembered(spec):
    x = batch(4).index_fill(0, torch.tensor([1]), torch.nan)
    _, _, states, _ = stepped(spec, [x], period=3)

    entries = places.entries(states[1].learner.memory.places)
    assert sorted(entry.arrival for entry in entries) == [0, 1, 2]
    assert updates(states[1]) == 1
    assert all(torch.isfinite(t).all() for t in flatten(states[1]).values() if t.is_floating_point())


def test_the_teacher_follows_the_student_slowly_and_statistics_are_their_own():
    _, _, states, _ = stepped("rotta", [batch(64)], nu=0.1)
    before, after = states[0].learner, states[1].learner

    for name, parameter in after.teacher.items():
        expected = 0.9 * before.teacher[name] + 0.1 * after.student.params[name]
        torch.testing.assert_close(parameter, expected, atol=1e-7, rtol=0)
        assert not torch.equal(after.student.params[name], before.student.params[name])
    # The student has seen augmented images, the teacher plain ones.
    assert (states[1].norm["student"]["1"].mean - states[1].norm["teacher"]["1"].mean).abs().max() > 1e-4


def test_augmentations_and_reservoirs_differ_from_seed_to_seed_and_from_step_to_step():
    rotta, note, shape = create("rotta").learner, create("note").learner, batch(5).shape
    seeds = {int(rotta.draw(seed, step, shape)["seed"]) for seed in range(5) for step in range(5)}
    draws = {tuple(note.draw(seed, step, shape)["reservoir"].flatten().tolist()) for seed in (0, 1) for step in (0, 1)}

    assert len(seeds) == 25
    assert len(draws) == 4


def test_rotta_refuses_to_augment_what_is_no_image():
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    )
    source = SourceModel(network, (6,), 3)

    with pytest.raises(UnfitModelError, match="`augment=false` works"):
        create("rotta").prepare(source)
    adapter = create("rotta", rotta={"augment": False, "period": 4})
    prepared = adapter.prepare(source)
    output, _ = adapter.step(prepared, adapter.init(prepared), torch.rand(8, 6))
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("observed", [False, True])
def test_rotta_observes_the_stream_only_where_it_is_asked_to(observed):
    """Public code lets UnMix-TNS follow every answered image: the default there."""
    adapter = create("unmix_tns+rotta", rotta={"observe_stream": observed})
    prepared = adapter.prepare(reference_source())
    state = adapter.init(prepared)

    _, after = adapter.step(prepared, state, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))

    moved = not torch.equal(after.norm["teacher"]["1"].means, state.norm["teacher"]["1"].means)
    assert moved == observed
    assert create("unmix_tns+rotta").options["rotta"].observe_stream
    assert not create("rotta").options["rotta"].observe_stream
