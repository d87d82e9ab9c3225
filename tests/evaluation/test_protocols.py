"""Protocols: what each shows, in which order, and where it resets."""

import numpy as np
import pytest

from service.errors import UnfitError
from service.offline.evaluation.data import Domain, Domains, InMemory, in_memory, with_blends
from service.offline.evaluation.protocols import PROTOCOLS, RAMP, PlanSettings, make_plan

COUNT = 90


def domain(severities=()):
    images = InMemory(np.zeros((COUNT, 1, 2, 2), np.uint8))
    labels = np.repeat(np.arange(5), COUNT // 5)
    return Domain(dict.fromkeys(severities, images), labels, 5) if severities else in_memory(images.pixels, labels)


DOMAINS = Domains({"clean": domain(), "fog": domain(range(1, 6)), "snow": domain(range(1, 6))})
SETTINGS = PlanSettings(repetitions=3)


def mean_run(labels):
    """Mean length of runs of one label."""
    return len(labels) / (1 + np.count_nonzero(np.diff(labels)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_image_is_shown_exactly_once_per_repetition(protocol):
    plan = make_plan(protocol, DOMAINS, SETTINGS, 0)

    for repetition in range(3 if protocol == "long" else 1):
        items = plan.items[plan.repetitions == repetition]
        shown = sorted(zip(items.domain.tolist(), items.row.tolist(), strict=True))
        assert shown == [(number, row) for number in range(3) for row in range(COUNT)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_batches_are_the_plan_cut_into_parts_of_the_size_that_only_resets_end_early(protocol, size):
    plan = make_plan(protocol, DOMAINS, SETTINGS, 0)

    batches = list(plan.batches(size))

    assert np.array_equal(np.concatenate([items.row for _, items in batches]), plan.items.row)
    short = [number for number, (_, items) in enumerate(batches) if len(items) < size]
    before_reset = [number - 1 for number, (reset, _) in enumerate(batches) if reset and number]
    assert set(short) <= {*before_reset, len(batches) - 1}
    assert max(len(items) for _, items in batches) <= size


def test_only_the_reset_protocol_resets_and_does_so_before_each_domain():
    marks = {name: [reset for reset, _ in make_plan(name, DOMAINS, SETTINGS, 0).batches(COUNT)] for name in PROTOCOLS}

    assert marks.pop("reset") == [True, True, True]
    assert not any(any(resets) for resets in marks.values())


def test_batches_of_continual_run_across_borders():
    batches = [items for _, items in make_plan("continual", DOMAINS, SETTINGS, 0).batches(64)]

    assert set(batches[1].domain.tolist()) == {0, 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_seed_alone_decides_the_plan(protocol):
    plans = [make_plan(protocol, DOMAINS, SETTINGS, seed).items.row.tolist() for seed in (3, 3, 4)]

    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_without_shuffling_images_come_as_stored():
    plan = make_plan("continual", DOMAINS, PlanSettings(shuffle=False), 0)

    assert plan.items.row.tolist() == [*range(COUNT)] * 3


def test_gradual_goes_up_and_down_within_each_corruption_and_leaves_clean_as_it_is():
    items = make_plan("gradual", DOMAINS, SETTINGS, 0).items

    assert RAMP == (1, 2, 3, 4, 5, 4, 3, 2, 1)
    assert set(items.severity[items.domain == 0].tolist()) == {0}
    for number in (1, 2):
        assert items.severity[items.domain == number].tolist() == np.repeat(RAMP, COUNT // 9).tolist()


def test_the_other_protocols_show_the_usual_severity():
    items = make_plan("continual", DOMAINS, SETTINGS, 0).items

    assert set(items.severity[items.domain > 0].tolist()) == {5}


def test_gradual_takes_blends_and_refuses_without_them():
    single = Domains({"clean": domain(), "fog": domain()})

    assert set(make_plan("gradual", with_blends(single), SETTINGS, 0).items.severity.tolist()) == {0, 1, 2, 3, 4, 5}
    with pytest.raises(UnfitError, match=r"gradual needs fog at severities 1 to 5, or the same images in .*`clean`"):
        make_plan("gradual", single, SETTINGS, 0)


def test_mixed_shuffles_domains_together():
    first = make_plan("mixed", DOMAINS, SETTINGS, 0).items.domain[:COUNT]

    assert np.bincount(first, minlength=3).min() > COUNT / 6


def test_correlated_has_longer_runs_of_a_label_the_smaller_delta_is():
    runs = {}
    for delta in (0.01, 0.1, 100.0):
        items = make_plan("correlated", DOMAINS, PlanSettings(delta=delta), 0).items
        runs[delta] = mean_run(DOMAINS.labels(items))
    iid = mean_run(DOMAINS.labels(make_plan("continual", DOMAINS, SETTINGS, 0).items))

    assert runs[0.01] > runs[0.1] > runs[100.0]
    assert runs[0.1] > 4 * iid


def test_an_order_given_is_the_order_shown():
    order = np.stack([np.random.default_rng(seed).permutation(COUNT) for seed in range(3)])

    plan = make_plan("correlated", DOMAINS, PlanSettings(order=order), 0)

    assert np.array_equal(plan.items.row, order.ravel())


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (np.zeros((2, COUNT), np.int64), r"is \(2, 90\), expected \(3, 90\)"),
        (np.zeros((3, COUNT), np.int64), "leaves out or repeats an image"),
    ],
)
def test_an_order_of_other_domains_or_images_is_refused(order, said):
    with pytest.raises(UnfitError, match=said):
        make_plan("correlated", DOMAINS, PlanSettings(order=order), 0)


def test_an_unknown_protocol_is_refused_with_those_there_are():
    with pytest.raises(UnfitError, match="no protocol 'random'; there are: reset, continual, gradual"):
        make_plan("random", DOMAINS, SETTINGS, 0)


def test_borders_tell_where_each_domain_begins():
    assert make_plan("continual", DOMAINS, SETTINGS, 0).borders == [(0, 0), (COUNT, 1), (2 * COUNT, 2)]
