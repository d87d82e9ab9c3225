"""Streams whose requests wait at the same time: their steps taken as one, and each served as alone."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters.state import flatten
from service.errors import DeadlineError, FailedError
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.kernel import KernelStatus
from service.monitoring.guard import Action
from service.serving.stream_batching import SIZES, Groups, Shared
from service.settings import EMBEDDED
from service.streams import engine
from service.telemetry.metrics import Telemetry
from tests.applications import INFER, application
from tests.bundles import FACTORY, torch_bundle, tripwire_bundle
from tests.holding import SPEC, begin, pays, running, serve, together
from tests.serving import images, infer_body, outputs
from tests.streams import put

TOLERANCE = 1e-4


def does_not_pay(joint, fitted, xs):
    return KernelStatus("it does not", times=0.9)


def pays_from_four_on(joint, fitted, xs):
    return KernelStatus("", joint, 4, 2.0)


def loaded(bundle, *factories):
    return host(read_bundle(bundle), [FACTORY, *factories], 1)


@pytest.fixture
def model(tmp_path):
    return loaded(torch_bundle(tmp_path / "bundle"))


def batch(seed, count=1):
    return torch.from_numpy(images(count, seed))


def alone(model, requests, spec=SPEC):
    """What streams answer one request after the other, without any other stream."""
    streams = {name: begin(model, name, spec) for name in {name for name, _ in requests}}
    return [serve(streams[name], x) for name, x in requests], streams


def assert_same_to_rounding(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("spec", ["source", "batch+tent", "unmix_tns+lame", SPEC])
def test_streams_that_wait_together_are_answered_and_learn_as_alone(model, spec):
    streams = [begin(model, f"s{number}", spec) for number in range(5)]
    wanted, expected = alone(model, [(stream.id, batch(seed)) for seed, stream in enumerate(streams)], spec)

    answers, run = together(model, [(stream, batch(seed)) for seed, stream in enumerate(streams)])

    assert run.groups_of(model, spec) == (1, 5)
    for answer, one in zip(answers, wanted, strict=True):
        torch.testing.assert_close(answer.output.probabilities, one.output.probabilities, atol=TOLERANCE, rtol=0)
        assert answer.signals == pytest.approx(one.signals, abs=TOLERANCE, rel=TOLERANCE)
    for stream in streams:
        assert (stream.current.generation, stream.current.steps, stream.current.counters.requests) == (1, 1, 1)
        assert_same_to_rounding(stream.current.state.adapter, expected[stream.id].current.state.adapter)


def test_forty_clients_on_twenty_streams_get_what_each_stream_alone_would_answer(model):
    async def client(run, number, streams, asked):
        for turn in range(3):
            stream, x = streams[number % 20], batch(100 * number + turn)
            task = run.ask(stream, x)  # asked in this order: the stream answers in this order
            asked.append((stream.id, x, task))
            await task

    async def scenario():
        async with running() as run:
            streams, asked = [begin(model, f"s{number}") for number in range(20)], []
            await asyncio.gather(*(client(run, number, streams, asked) for number in range(40)))
            return [(name, x, task.result()) for name, x, task in asked], streams, run.groups_of(model)

    asked, streams, (groups, shared) = asyncio.run(scenario())
    wanted, expected = alone(model, [(name, x) for name, x, _ in asked])

    assert groups > 0
    assert shared > 40
    for (_, _, answer), one in zip(asked, wanted, strict=True):
        torch.testing.assert_close(answer.output.probabilities, one.output.probabilities, atol=TOLERANCE, rtol=0)
    for stream in streams:
        assert (stream.current.steps, stream.waiting) == (6, 0)
        assert_same_to_rounding(stream.current.state.adapter, expected[stream.id].current.state.adapter)


def test_a_stream_has_one_request_in_a_group_and_the_next_waits_for_it(model):
    first, second = begin(model, "first"), begin(model, "second")
    requests = [(first, 1), (first, 2), (second, 3), (first, 4), (second, 5)]

    answers, run = together(model, [(stream, batch(seed)) for stream, seed in requests])

    assert [answer.answered_generation for answer in answers] == [0, 1, 0, 2, 1]
    assert run.order[:2] == ["first", "second"]
    assert run.groups_of(model)[0] >= 1


@pytest.mark.parametrize("judge", [does_not_pay, pays_from_four_on])
def test_streams_are_served_alone_where_a_group_does_not_pay(model, judge):
    streams = [begin(model, f"s{number}") for number in range(3)]

    answers, run = together(model, [(stream, batch(1)) for stream in streams], judge=judge)

    assert run.groups_of(model) == (0, 0)
    wanted = serve(begin(model), batch(1)).output.probabilities
    assert all(torch.equal(answer.output.probabilities, wanted) for answer in answers)


def test_a_group_is_no_larger_than_allowed(model):
    streams = [begin(model, f"s{number}") for number in range(9)]

    answers, run = together(model, [(stream, batch(1)) for stream in streams], most=4)

    assert len(answers) == 9
    assert run.groups_of(model) == (2, 8)


def test_pipelines_and_shapes_are_not_mixed(model):
    requests = [(begin(model, f"{spec}{n}{count}", spec), batch(1, count))
                for spec in ("unmix_tns", "ema") for count in (1, 2) for n in "ab"]  # fmt: skip

    _, run = together(model, requests)

    assert run.groups_of(model, "unmix_tns") == run.groups_of(model, "ema") == (2, 4)


def paused(stream):
    monitors = replace(stream.current.state.monitors, pause=torch.tensor(3))
    put(stream, monitors=monitors)
    return stream


ALONE = {
    "sync": lambda model: begin(model, durability="sync"),
    "frozen": lambda model: begin(model, mode="frozen"),
    "shadow": lambda model: begin(model, mode="shadow"),
    "window": lambda model: begin(model, adapt_batch_size=2),
    "paused": lambda model: paused(begin(model)),
    "branches": lambda model: begin(model, spec="auto"),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in ALONE.items()])
def test_a_stream_that_must_be_exact_or_does_not_just_learn_is_left_alone(model, make):
    groups = Groups(64, Telemetry(), pays)

    assert groups.kind(Shared(begin(model), batch(1))) is not None
    assert groups.kind(Shared(make(model), batch(1))) is None


def test_a_large_request_fills_a_forward_by_itself_and_one_stream_is_no_group(model):
    assert Groups(64, Telemetry(), pays).kind(Shared(begin(model), batch(1, 9))) is None
    assert Groups(1, Telemetry(), pays).kind(Shared(begin(model), batch(1))) is None
    assert Groups(64, Telemetry(), pays).room(Shared(begin(model), batch(1, 8))) == 7


def test_deterministic_streams_that_wait_with_others_answer_bit_for_bit_as_alone(model):
    exact = [begin(model, f"exact{number}", durability="sync") for number in range(3)]
    others = [begin(model, f"other{number}") for number in range(3)]
    requests = [(stream, batch(seed)) for seed, stream in enumerate(exact + others)]

    answers, run = together(model, requests)

    wanted, expected = alone(model, [(stream.id, x) for stream, x in requests[:3]])
    assert run.groups_of(model) == (1, 3)
    for answer, one, stream in zip(answers, wanted, exact, strict=False):
        assert torch.equal(answer.output.probabilities, one.output.probabilities)
        after = flatten(expected[stream.id].current.state.adapter)
        assert all(torch.equal(tensor, after[name]) for name, tensor in flatten(stream.current.state.adapter).items())


def test_a_guard_that_acts_on_one_stream_leaves_the_others_alone(model):
    streams = [begin(model, f"s{number}", "unmix_tns") for number in range(4)]
    xs = [batch(seed) for seed in range(4)]
    xs[1] = torch.full_like(xs[1], torch.nan)

    answers, run = together(model, list(zip(streams, xs, strict=True)))

    wanted, _ = alone(model, [(stream.id, x) for stream, x in zip(streams, xs, strict=True)], "unmix_tns")
    assert run.groups_of(model, "unmix_tns") == (1, 4)
    assert [answer.action for answer in answers] == [Action.KEPT, Action.SKIPPED, Action.KEPT, Action.KEPT]
    assert [stream.current.steps for stream in streams] == [1, 0, 1, 1]
    for answer, one in zip(answers, wanted, strict=True):
        torch.testing.assert_close(
            answer.output.probabilities, one.output.probabilities, atol=TOLERANCE, rtol=0, equal_nan=True
        )


def test_where_a_model_fails_each_stream_is_served_alone_and_only_one_fails(tmp_path):
    model = loaded(tripwire_bundle(tmp_path / "bundle"), "tests.models:Tripwire")
    streams = [begin(model, f"s{number}") for number in range(3)]
    xs = [batch(seed) for seed in range(3)]
    xs[1][0, 0, 0, 0] = 1.0

    answers, run = together(model, list(zip(streams, xs, strict=True)))

    assert run.groups_of(model) == (0, 0)
    assert isinstance(answers[1], FailedError)
    assert [stream.current.steps for stream in streams] == [1, 0, 1]
    assert torch.equal(answers[2].output.probabilities, alone(model, [("s2", xs[2])])[0][0].output.probabilities)


def test_a_step_taken_with_others_is_not_used_once_the_stream_has_moved_on(model):
    stream, other = begin(model), begin(model)
    shared = Shared(stream, batch(1))
    Groups(64, Telemetry(), pays).take([shared, Shared(other, batch(2))])
    serve(stream, batch(3))

    moved_on = stream.current.state.adapter
    output, _ = shared.step(moved_on, shared.x)

    assert torch.equal(output.probabilities, stream.current.config.fitted.step(moved_on, shared.x)[0].probabilities)


def test_a_caller_who_goes_away_leaves_its_place_in_the_group(model):
    async def scenario():
        async with running() as run:
            streams = [begin(model, f"s{number}") for number in range(3)]
            held = await run.hold(begin(model, "holds"))
            tasks = [run.ask(stream, batch(1)) for stream in streams]
            for _ in range(3):
                await asyncio.sleep(0)
            tasks[1].cancel()
            run.released.set()
            await asyncio.gather(held, *tasks, return_exceptions=True)
            assert await run.scheduler.admission.drain(10)
            return [stream.current.steps for stream in streams], run.groups_of(model)

    assert asyncio.run(scenario()) == ([1, 1, 1], (1, 3))


def test_a_deadline_that_comes_before_the_group_changes_nothing_and_frees_the_stream(model):
    async def scenario():
        async with running(deadline_seconds=0.05) as run:
            streams = [begin(model, f"s{number}") for number in range(3)]
            held = await run.hold(begin(model, "holds"))
            late = await asyncio.gather(*(run.ask(stream, batch(1)) for stream in streams), return_exceptions=True)
            run.released.set()
            await held
            return late, [(stream.current.steps, stream.waiting) for stream in streams]

    late, streams = asyncio.run(scenario())

    assert all(isinstance(error, DeadlineError) for error in late)
    assert streams == [(0, 0)] * 3


def test_deadlines_that_come_while_groups_are_taken_leave_no_stream_half_served(model):
    streams = [begin(model, f"s{number}") for number in range(12)]

    async def scenario():
        async with running(deadline_seconds=0.01) as run:
            held = await run.hold(begin(model, "holds"))
            tasks = [run.ask(stream, batch(1)) for stream in streams]
            asyncio.get_running_loop().call_later(0.01, run.released.set)
            answers = await asyncio.gather(held, *tasks, return_exceptions=True)
            assert await run.scheduler.admission.drain(10)
            return answers[1:]

    for _ in range(15):
        before = [stream.current.steps for stream in streams]
        answers = asyncio.run(scenario())
        assert all(isinstance(answer, DeadlineError | engine.Served) for answer in answers)
        stepped = [stream.current.steps - steps for stream, steps in zip(streams, before, strict=True)]
        assert stepped == [int(isinstance(answer, engine.Served)) for answer in answers]
        assert not any(stream.waiting for stream in streams)


def test_a_pipeline_is_measured_once_for_each_number_of_images(model):
    asked = []

    def counted(joint, fitted, xs):
        asked.append((fitted.spec, len(xs[0]), len(xs)))
        return KernelStatus("", joint, 2, 3.0)

    groups = Groups(64, Telemetry(), counted)
    for count in (1, 2, 1):
        groups.take([Shared(begin(model, f"s{number}"), batch(number, count)) for number in range(2)])

    assert asked == [(SPEC, 1, max(SIZES)), (SPEC, 2, max(SIZES))]
    kernels = model.fit(SPEC, {}).kernels
    assert kernels.joined == dict.fromkeys((1, 2), KernelStatus("", kernels.joint, 2, 3.0))


def test_an_onnx_bundle_says_why_its_streams_are_not_grouped():
    model = loaded(EMBEDDED.with_name("bundle_onnx"))

    assert model.default.kernels.can.joint == "the model is an ONNX graph"
    assert Groups(64, Telemetry(), pays).kind(Shared(begin(model, spec="source"), model.sample(1))) is None


def test_the_server_answers_many_streams_at_once_as_each_alone_and_tells_what_grouping_brings(tmp_path):
    bundle, streams = torch_bundle(tmp_path / "reference", adapter="unmix_tns+eata"), 20
    bodies = [infer_body(images(1, seed), f"s{seed % streams}") for seed in range(2 * streams)]
    answered = {}

    for most in (1, 64):
        (tmp_path / str(most)).mkdir()
        with application(tmp_path / str(most), bundle, group_streams=most) as api:
            rounds = [bodies[:streams], bodies[streams:]]
            given = [api.together(*(("POST", INFER, {"json": body}) for body in some)) for some in rounds]
            answered[most] = [response.json() for some in given for response in some]
            told = {each["adapter"]: each for each in api("GET", "/v1/models/reference").json()["pipelines"]}

    for one, many in zip(answered[1], answered[64], strict=True):
        np.testing.assert_allclose(outputs(one)["probabilities"], outputs(many)["probabilities"], atol=TOLERANCE)
        assert one["parameters"]["tta_generation"] == many["parameters"]["tta_generation"]
    (group,) = told[SPEC]["groups"]
    assert group["images"] == 1
    assert bool(group["least_streams"]) == (group["reason"] == "")
    assert told[SPEC]["not_grouped"] == ""
