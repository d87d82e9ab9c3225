"""Runs: equal to stepping by hand, in one process or several; comparisons and their figures."""

import math
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from adapters import create
from adapters.errors import SpecError
from service.errors import FailedError
from service.offline.evaluation.comparison import Cell, compare, schedule
from service.offline.evaluation.data import mapped
from service.offline.evaluation.pipelines import is_random, read_pipeline
from service.offline.evaluation.processes import Failure, Task, run_all
from service.offline.evaluation.protocols import Plan
from service.offline.evaluation.runs import Run, run
from tests.evaluation.made import PLAIN, REFERENCE, ignore, made_domains, made_plan
from tests.models import reference_source

DOMAINS = made_domains()


def without_time(outcome):
    return {name: value for name, value in vars(outcome).items() if name != "milliseconds"}


@pytest.mark.parametrize("protocol", ["continual", "reset", "mixed", "long"])
def test_a_run_is_stepping_by_hand(protocol):
    adapter, source, plan = create("ema+tent"), reference_source(), made_plan(protocol, DOMAINS)
    prepared = adapter.prepare(source)
    state, wrong = adapter.init(prepared), []
    for reset, items in plan.batches(7):
        state = adapter.init(prepared) if reset else state
        x = torch.from_numpy(DOMAINS.pixels(items)).float() / 255
        output, state = adapter.step(prepared, state, x)
        wrong.append(output.probabilities.argmax(1).numpy() != DOMAINS.labels(items))
    expected = np.concatenate(wrong)

    found = run(adapter, source, DOMAINS, plan, 7, ignore)

    assert found.error == 100 * expected.mean()
    for number, name in enumerate(DOMAINS.names):
        assert found.errors[name] == 100 * expected[plan.items.domain == number].mean()
    halves = [100 * half.mean() for half in np.split(expected, 2)]
    assert list(found.repetitions) == (halves if protocol == "long" else [found.error])
    assert found.milliseconds > 0


def test_after_a_reset_a_domain_is_answered_as_if_it_were_the_first():
    adapter, source, plan = create("batch+tent", tent={"lr": 0.05}), reference_source(), made_plan("reset", DOMAINS)
    seen: list[torch.Tensor] = []

    class Spy:
        seed = 0
        prepare, init = adapter.prepare, adapter.init

        @staticmethod
        def step(*arguments):
            output, state = adapter.step(*arguments)
            seen.append(output.logits)
            return output, state

    def logits(segments):
        seen.clear()
        run(Spy(), source, DOMAINS, Plan("made", segments), 8, ignore)
        return torch.cat(seen[-3:])

    last = logits(plan.segments[-1:])

    assert torch.equal(logits(plan.segments), last)
    assert not torch.allclose(logits(tuple(replace(segment, reset=False) for segment in plan.segments)), last)


def test_the_course_is_the_error_over_equal_parts_of_the_stream():
    found = run(create("source"), reference_source(), DOMAINS, made_plan("long", DOMAINS), 16, ignore)

    # 144 images make up two points of 72.
    assert len(found.course) == 2
    assert math.isclose(sum(found.course) / 2, found.error)


def test_advance_is_told_of_every_image():
    told: list[int] = []

    run(create("source"), reference_source(), DOMAINS, made_plan("continual", DOMAINS), 50, told.append)

    assert told == [50, 22]


def test_signals_are_reported_by_their_range():
    found = run(create("batch+tent"), reference_source(), DOMAINS, made_plan("continual", DOMAINS), 8, ignore)

    entropy = found.signals["entropy"]
    assert 0 < entropy.least < entropy.mean < entropy.greatest < math.log(10)


def test_runs_in_several_processes_equal_those_in_one_and_tell_of_every_image():
    plans = [made_plan(name, DOMAINS) for name in ("continual", "correlated")]
    runs = schedule(reference_source(), ["source", "unmix_tns+tent", "alpha"], plans, [8, 30], 2)
    told: list[int] = []

    apart = run_all(REFERENCE, DOMAINS, runs.tasks, 2, told.append)
    here = run_all(REFERENCE, DOMAINS, runs.tasks, 1, ignore)

    assert [without_time(outcome) for outcome in apart] == [without_time(outcome) for outcome in here]
    assert sum(told) == runs.images == 16 * 72


def test_a_process_that_ends_before_its_time_is_told_of():
    tasks = [Task("source", made_plan("continual", DOMAINS), 8, seed) for seed in range(2)]

    with pytest.raises(FailedError, match="ended before its time; fewer --jobs take less memory"):
        run_all(partial(os._exit, 1), DOMAINS, tasks, 2, ignore)


def test_mapped_images_give_the_same_run(tmp_path):
    plan = made_plan("mixed", DOMAINS)
    runs = [
        run(create("batch"), reference_source(), each, plan, 9, ignore) for each in (DOMAINS, mapped(DOMAINS, tmp_path))
    ]

    assert without_time(runs[0]) == without_time(runs[1])


def test_pipelines_that_draw_numbers_run_once_per_seed_and_others_once():
    plan = made_plan("continual", DOMAINS)

    runs = schedule(reference_source(), ["unmix_tns", "batch", "batch+cotta"], [plan], [8], 3)

    seeds = [(task.pipeline, task.seed) for task in runs.tasks]
    assert seeds == [
        *(("unmix_tns", seed) for seed in range(3)), ("batch", 0), *(("batch+cotta", seed) for seed in range(3)),
        ("source", 0),
    ]  # fmt: skip
    assert is_random("batch+cotta", reference_source())
    assert not is_random("batch+tent", reference_source())


def test_a_pipeline_that_the_model_is_unfit_for_is_a_row_with_the_reason():
    domains = made_domains(classes=3)
    runs = schedule(PLAIN(), ["batch", "source"], [made_plan("continual", domains)], [8], 3)

    cells = compare(PLAIN, domains, runs, 1, ignore)

    assert [bool(cell.runs) for cell in cells] == [False, True]
    assert "this model has none" in cells[0].refusal
    assert cells[0].error == math.inf
    assert cells[0].source_error == cells[1].error


def test_a_pipeline_that_cannot_take_a_batch_is_a_failure_with_the_reason():
    domains = made_domains()
    tasks = [Task("source", made_plan("continual", domains), 8)]

    outcomes = run_all(partial(wider_source), domains, tasks, 1, ignore)

    assert isinstance(outcomes[0], Failure)
    assert "channels" in outcomes[0].reason


def wider_source():
    source = PLAIN()
    source.network[0] = torch.nn.Conv2d(5, 4, 3)
    return source


def test_a_text_that_is_no_pipeline_is_refused_before_anything_runs():
    with pytest.raises(SpecError, match="no adapter part is named 'tnet'"):
        schedule(reference_source(), ["batch", "tnet"], [made_plan("continual", DOMAINS)], [8], 1)


def made_run(error, milliseconds=1.0):
    return Run(0, error, {"fog": error}, (error,), (error, error), milliseconds, {})


def test_a_cell_is_the_mean_over_its_runs_with_its_standard_error():
    cell = Cell("unmix_tns", "continual", 8, (made_run(10.0, 3), made_run(12.0, 1), made_run(17.0, 2)), 12.0)

    assert cell.error == 13.0
    # Deviations -3, -1, 4: variance 26 / 2, over three runs.
    assert math.isclose(cell.standard_error, math.sqrt(13 / 3))
    assert cell.milliseconds == 2
    assert cell.errors == {"fog": 13.0}
    assert cell.course == [13.0, 13.0]
    assert cell.worse_than_source


def test_the_source_model_is_never_worse_than_itself():
    runs = schedule(reference_source(), ["source"], [made_plan("continual", DOMAINS)], [5, 64], 1)

    assert not any(cell.worse_than_source for cell in compare(REFERENCE, DOMAINS, runs, 1, ignore))


def test_an_adapter_is_read_with_its_seed():
    assert read_pipeline("unmix_tns", 5).seed == 5
