"""One request in one stream: steps, windows, modes, skipped steps and the agreement with the source model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.functional.entropy import entropy_of_probabilities
from adapters.state import flatten, rebuild
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.monitoring.guard import Action, Policy, Verdicts, decide
from service.streams import engine, pending_images
from service.streams.idempotency import Answered, RequestIdentity
from service.types import InferResponse, InputSpec
from tests.bundles import FACTORY, torch_bundle, tripwire_bundle
from tests.models import REFERENCE, untrained_reference_network
from tests.serving import images
from tests.streams import configure, put, serve, stream_of

SPECS = ["batch+tent", "unmix_tns+eta+lame", "source+lame"]


class Cliff(nn.Module):
    """The reference network; on images whose first value is exactly 1 it answers, but has no finite gradient."""

    def __init__(self):
        super().__init__()
        self.network = untrained_reference_network()

    def forward(self, x):
        hidden = self.network[:3](x)
        if bool((x[:, 0, 0, 0] == 1).any()):
            hidden = hidden + (hidden - hidden).sqrt()  # adds 0, and to the gradient infinity - infinity
        return self.network[3:](hidden)


CLIFF = f"{__name__}:Cliff"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("model") / "bundle")), [FACTORY], 1)


@pytest.fixture(scope="module")
def cliff(tmp_path_factory):
    bundle = torch_bundle(tmp_path_factory.mktemp("cliff") / "bundle", factory=CLIFF)
    weights = {f"network.{name}": tensor for name, tensor in load_file(REFERENCE / "model.safetensors").items()}
    save_file(weights, bundle / "model.safetensors")
    return host(read_bundle(bundle), [CLIFF], 1)


def begin(model, spec="batch+tent", options=None, **settings):
    """A stream in its initial state."""
    return stream_of(model, spec, options, **settings)


def learned(stream):
    """What a stream has learned: its state but for what monitors remember."""
    return {"adapter": stream.current.state.adapter, "window": stream.current.state.window}


def batch(count, seed=0):
    return torch.from_numpy(images(count, seed))


def poison(count, seed=0):
    x = batch(count, seed)
    x[0, 0, 0, 0] = 1.0
    return x


def rounded(x):
    """What the window keeps of images in [0, 1]."""
    return (x * 255).round() / 255


def assert_same_state(one, other):
    first, second = flatten(one), flatten(other)
    assert list(first) == list(second)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def assert_same_answer(one, other):
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.probabilities, other.probabilities)


def spoiled(stream):
    """Put NaN into what the stream has learned, as no guarded step could."""
    tensors = flatten(stream.current.state.adapter)
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    put(stream, adapter=rebuild(stream.current.state.adapter, tensors))


@pytest.mark.parametrize("spec", SPECS)
def test_a_request_is_a_step_and_answered_by_it(model, spec):
    stream, x = begin(model, spec), batch(6)
    before = stream.current.state
    expected, after = stream.current.config.fitted.step(before.adapter, x)

    served = serve(stream, x)

    assert served.action is Action.KEPT
    assert (
        served.answered_generation,
        stream.current.generation,
        stream.current.steps,
        stream.current.counters.requests,
    ) == (0, 1, 1, 1)
    assert_same_answer(served.output, expected)
    assert_same_state(stream.current.state.adapter, after)
    assert_same_state(before.adapter, stream.current.config.fitted.initial())


@pytest.mark.parametrize("spec", SPECS)
def test_queued_answers_equal_predict_and_move_no_generation(model, spec):
    stream = begin(model, spec, adapt_batch_size=8)
    serve(stream, batch(8, seed=1))
    adapter, x = stream.current.state.adapter, batch(3, seed=2)

    served = serve(stream, x)

    assert served.action is Action.QUEUED
    assert (served.answered_generation, stream.current.generation, stream.current.steps) == (1, 1, 1)
    assert_same_answer(served.output, stream.current.config.fitted.predict(adapter, x))
    assert stream.current.state.adapter is adapter
    assert torch.equal(stream.current.state.window, (x * 255).round().to(torch.uint8))


def test_before_the_first_step_queued_answers_are_the_source_models(model):
    stream, x = begin(model, "batch+tent", adapt_batch_size=8), batch(3)

    served = serve(stream, x)

    torch.testing.assert_close(served.output.logits, model.answer_as_source(x).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_a_full_window_is_one_step_on_its_images_in_order(model, spec):
    stream = begin(model, spec, adapt_batch_size=5)
    parts = [batch(2, seed=1), batch(2, seed=2), batch(3, seed=3)]
    for part in parts[:2]:
        serve(stream, part)
        assert not stream.current.window_full
    serve(stream, parts[2])
    assert stream.current.window_full
    assert stream.current.generation == 0

    stream.current, decision = engine.adapt_window(stream.current)

    _, expected = stream.current.config.fitted.step(stream.current.config.fitted.initial(), rounded(torch.cat(parts)))
    assert decision.action is Action.KEPT
    assert (stream.current.generation, stream.current.steps, len(stream.current.state.window)) == (1, 1, 0)
    assert_same_state(stream.current.state.adapter, expected)


def test_a_full_window_is_learned_before_the_next_request_is_answered(model):
    stream, last = begin(model, adapt_batch_size=4), batch(1, seed=9)
    for seed in (1, 2):
        serve(stream, batch(2, seed))

    served = serve(stream, last)

    _, learned = stream.current.config.fitted.step(
        stream.current.config.fitted.initial(), rounded(torch.cat([batch(2, 1), batch(2, 2)]))
    )
    assert (served.action, served.answered_generation, stream.current.generation) == (Action.QUEUED, 1, 1)
    assert_same_answer(served.output, stream.current.config.fitted.predict(learned, last))
    assert len(stream.current.state.window) == 1


def test_a_window_that_is_not_full_waits(model):
    stream = begin(model, adapt_batch_size=100)

    actions = [serve(stream, batch(3, seed)).action for seed in range(5)]

    assert set(actions) == {Action.QUEUED}
    assert (stream.current.generation, len(stream.current.state.window)) == (0, 15)


@pytest.mark.parametrize("count", [4, 9], ids=["as_large", "larger"])
def test_a_large_request_is_a_step_by_itself_after_what_waits(model, count):
    stream, waiting, large = begin(model, adapt_batch_size=4), batch(3, seed=1), batch(count, seed=2)
    serve(stream, waiting)

    served = serve(stream, large)

    _, first = stream.current.config.fitted.step(stream.current.config.fitted.initial(), rounded(waiting))
    expected, second = stream.current.config.fitted.step(first, large)
    assert served.action is Action.KEPT
    assert (served.answered_generation, stream.current.generation, stream.current.steps) == (1, 2, 2)
    assert_same_answer(served.output, expected)
    assert_same_state(stream.current.state.adapter, second)
    assert len(stream.current.state.window) == 0


def test_a_large_request_without_waiting_images_is_one_step(model):
    stream = begin(model, adapt_batch_size=4)

    serve(stream, batch(4))

    assert (stream.current.generation, stream.current.steps) == (1, 1)


def test_an_empty_window_is_no_step(model):
    stream = begin(model, adapt_batch_size=4)

    assert engine.adapt_window(stream.current) == (stream.current, None)


def test_reset_returns_to_the_initial_state_and_clears_window_signals_and_retries(model):
    stream = begin(model, "unmix_tns+tent", {"seed": 5}, adapt_batch_size=4)
    serve(stream, batch(4))
    serve(stream, batch(2))
    answered = Answered(RequestIdentity("id", "", "digest"), InferResponse("m", "1", "id", {}, {}))
    stream.current = replace(stream.current, retries=stream.current.retries.with_answer(answered))

    stream.current = engine.reset(stream.current)

    assert stream.current.generation == 2
    assert stream.current.steps == len(stream.current.state.window) == len(stream.current.retries.kept) == 0
    assert stream.current.readings.signals == {}
    assert stream.current.readings.source_check is None
    assert_same_state(stream.current.state.adapter, stream.current.config.fitted.initial())


def test_restore_continues_from_a_state_and_its_window_under_a_new_generation(model):
    stream, twin, x = begin(model, adapt_batch_size=4), begin(model, adapt_batch_size=4), batch(6, seed=3)
    for some in (stream, twin):
        serve(some, batch(4, seed=1))
        serve(some, batch(2, seed=2))
    kept = stream.current.state
    for seed in range(3):
        serve(stream, batch(4, seed))

    stream.current = engine.restore(stream.current, kept)

    assert (stream.current.generation, stream.current.steps, len(stream.current.state.window)) == (6, 1, 2)
    assert_same_answer(serve(stream, x).output, serve(twin, x).output)
    assert_same_state(stream.current.state, twin.current.state)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)], ids=str)
def test_the_window_keeps_images_to_half_a_level_and_what_was_rounded_exactly(value_range):
    spec = InputSpec("x", (3, 16, 16), value_range=value_range)
    low, high = value_range
    x = batch(4) * (high - low) + low
    x[0, 0, 0, :2] = torch.tensor(value_range)

    kept = pending_images.append(pending_images.empty(spec), x, spec)
    once = pending_images.images(kept, spec)
    twice = pending_images.append(kept, once, spec)

    assert kept.dtype == torch.uint8
    assert float((once - x).abs().max()) <= (high - low) / 255 / 2 * 1.001
    assert once[0, 0, 0, :2].tolist() == list(value_range)
    assert torch.equal(twice[4:], kept)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("adapt_batch_size", [1, 4])
def test_a_frozen_stream_never_changes(model, spec, adapt_batch_size):
    stream = begin(model, spec, adapt_batch_size=adapt_batch_size)
    serve(stream, batch(6, seed=1))
    serve(stream, batch(2, seed=2))
    configure(stream, mode="frozen")
    before, generation = stream.current.state, stream.current.generation

    for seed in range(3):
        x = batch(5, seed=10 + seed)
        served = serve(stream, x)
        assert served.action is Action.FROZEN
        assert_same_answer(served.output, stream.current.config.fitted.predict(before.adapter, x))

    assert stream.current.state.adapter is before.adapter
    assert stream.current.state.window is before.window
    assert stream.current.generation == served.answered_generation == generation


def test_a_frozen_stream_leaves_a_full_window_as_it_is(model):
    stream = begin(model, adapt_batch_size=2)
    serve(stream, batch(1, seed=1))
    serve(stream, batch(1, seed=2))
    assert stream.current.window_full
    configure(stream, mode="frozen")
    before = stream.current.state

    serve(stream, batch(4))

    assert stream.current.state.adapter is before.adapter
    assert stream.current.state.window is before.window


@pytest.mark.parametrize("spec", ["batch+tent", "unmix_tns+eta", "source"])
def test_a_frozen_answer_does_not_depend_on_batch_mates(model, spec):
    stream = begin(model, spec)
    serve(stream, batch(6, seed=1))
    configure(stream, mode="frozen")
    x = batch(4, seed=2)

    together = serve(stream, x).output.logits
    alone = torch.cat([serve(stream, image[None]).output.logits for image in x])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("adapt_batch_size", [1, 5])
def test_a_shadow_stream_answers_as_the_source_and_learns_as_an_adapting_one(model, spec, adapt_batch_size):
    settings = {"adapt_batch_size": adapt_batch_size}
    shadow, adapting = begin(model, spec, mode="shadow", **settings), begin(model, spec, mode="adapt", **settings)

    for seed, count in enumerate((3, 3, 6, 2, 1)):
        x = batch(count, seed)
        answer, beside = serve(shadow, x), serve(adapting, x)
        assert_same_answer(answer.output, model.answer_as_source(x))
        assert torch.equal(answer.source, answer.output.probabilities)
        assert (answer.action, answer.answered_generation) == (beside.action, beside.answered_generation)

    assert shadow.current.generation == adapting.current.generation
    assert_same_state(learned(shadow), learned(adapting))


def test_a_shadow_stream_reports_its_disagreement_at_every_request(model):
    shadow, adapting = begin(model, mode="shadow"), begin(model, mode="adapt")

    for seed in range(4):
        x = batch(9, seed)
        reported = serve(shadow, x).signals
        adapted = serve(adapting, x).output.probabilities.argmax(1)
        expected = (adapted == model.answer_as_source(x).probabilities.argmax(1)).float().mean()
        assert reported["source_agreement"] == pytest.approx(float(expected))
        assert reported["source_age"] == 0


def test_a_step_without_finite_values_is_skipped_and_answered_from_the_kept_state(cliff):
    stream, x = begin(cliff), poison(4, seed=2)
    serve(stream, batch(4, seed=1))
    before = stream.current.state

    served = serve(stream, x)

    assert served.action is Action.SKIPPED
    assert (served.answered_generation, stream.current.generation, stream.current.steps) == (1, 1, 1)
    assert stream.current.state.adapter is before.adapter
    assert stream.current.state.window is before.window
    assert_same_answer(served.output, stream.current.config.fitted.predict(before.adapter, x))
    assert torch.isfinite(served.output.logits).all()


def test_a_skipped_step_leaves_no_trace_in_the_ones_that_follow(cliff):
    stream, calm = begin(cliff), begin(cliff)

    for seed in range(3):
        if seed == 1:
            serve(stream, poison(4, seed=50))
        answers = [serve(some, batch(4, seed)) for some in (stream, calm)]
        assert_same_answer(answers[0].output, answers[1].output)

    assert_same_state(learned(stream), learned(calm))
    assert (stream.current.generation, stream.current.counters.requests) == (3, 4)


def test_a_window_without_a_finite_step_is_emptied_and_nothing_is_learned(cliff):
    stream = begin(cliff, adapt_batch_size=4)
    serve(stream, batch(4, seed=1))
    learned = stream.current.state.adapter
    serve(stream, poison(3, seed=2))
    serve(stream, batch(2, seed=3))

    stream.current, decision = engine.adapt_window(stream.current)

    assert (decision.action, decision.rule) == (Action.SKIPPED, "non_finite")
    assert len(stream.current.state.window) == 0
    assert_same_state(stream.current.state.adapter, learned)
    assert serve(stream, batch(4, seed=4)).action is Action.KEPT


@pytest.mark.parametrize(
    ("mode", "adapt_batch_size", "action"),
    [
        pytest.param("adapt", 1, Action.SKIPPED, id="adapt"),
        pytest.param("adapt", 8, Action.QUEUED, id="queued"),
        pytest.param("shadow", 1, Action.SKIPPED, id="shadow"),
        pytest.param("frozen", 1, Action.FROZEN, id="frozen"),
    ],
)
def test_a_state_that_is_not_finite_is_answered_by_the_source_model(model, mode, adapt_batch_size, action):
    stream, x = begin(model, mode=mode, adapt_batch_size=adapt_batch_size), batch(4)
    spoiled(stream)

    served = serve(stream, x)

    assert served.action is action
    assert_same_answer(served.output, model.answer_as_source(x))
    assert stream.current.generation == 0


def test_a_reset_heals_a_state_that_is_not_finite(model):
    stream, fresh, x = begin(model), begin(model), batch(4)
    spoiled(stream)

    stream.current = engine.reset(stream.current)

    assert_same_answer(serve(stream, x).output, serve(fresh, x).output)


@pytest.mark.parametrize("finite_answer", [True, False], ids=["answer", "no_answer"])
@pytest.mark.parametrize("finite_state", [True, False], ids=["state", "no_state"])
def test_only_a_step_with_finite_answer_and_state_is_kept(finite_answer, finite_state):
    action = Action.KEPT if finite_answer and finite_state else Action.SKIPPED

    assert decide(Verdicts(finite_answer=finite_answer, finite_state=finite_state), Policy()).action is action


def test_the_source_is_compared_at_the_first_and_every_nth_request_and_ages_between(model):
    stream = begin(model)

    ages = [serve(stream, batch(4, seed), every=3).signals["source_age"] for seed in range(8)]

    assert ages == [0, 1, 2, 0, 1, 2, 0, 1]


def test_the_agreement_stays_as_measured_while_it_ages(model):
    stream = begin(model)
    measured = []
    for seed in range(6):
        x = batch(16, seed)
        served = serve(stream, x, every=3)
        labels = served.output.probabilities.argmax(1)
        agreement = (labels == model.answer_as_source(x).probabilities.argmax(1)).float().mean()
        measured.append((float(agreement), served.signals["source_agreement"], served.source is not None))

    truth, told, computed = zip(*measured, strict=True)
    assert computed == (True, False, False, True, False, False)
    assert told == pytest.approx([truth[0]] * 3 + [truth[3]] * 3)


def test_asking_for_the_source_measures_it_anew(model):
    stream, x = begin(model), batch(4)
    serve(stream, x)
    aged = serve(stream, x)

    asked = serve(stream, x, wants_source=True)

    assert aged.source is None
    assert aged.signals["source_age"] == 1
    assert torch.equal(asked.source, model.answer_as_source(x).probabilities)
    assert asked.signals["source_age"] == 0


def test_a_plain_source_stream_is_its_own_source(model):
    stream, x = begin(model, "source"), batch(4)

    answers = [serve(stream, x, every=100) for _ in range(3)]

    assert all(torch.equal(served.source, served.output.probabilities) for served in answers)
    assert [served.signals["source_agreement"] for served in answers] == [1.0, 1.0, 1.0]
    assert [served.signals["source_age"] for served in answers] == [0, 0, 0]


def test_after_a_reset_the_source_is_compared_anew(model):
    stream = begin(model)
    serve(stream, batch(4))
    serve(stream, batch(4))

    stream.current = engine.reset(stream.current)

    assert serve(stream, batch(4)).signals["source_age"] == 0


@pytest.mark.parametrize("mode", ["adapt", "frozen", "shadow"])
def test_the_entropy_told_is_that_of_the_probabilities_given(model, mode):
    stream, x = begin(model, "unmix_tns+tent+lame", mode=mode), batch(6)

    served = serve(stream, x)

    expected = entropy_of_probabilities(served.output.probabilities).mean()
    assert served.signals["entropy"] == pytest.approx(float(expected))
    assert served.signals["drift"] > 0
    assert served.signals == stream.current.readings.signals


def test_what_raises_in_the_middle_leaves_the_stream_as_it_was(tmp_path):
    factory = "tests.models:Tripwire"
    model = host(read_bundle(tripwire_bundle(tmp_path / "bundle")), [factory], 1)
    stream = begin(model)
    serve(stream, batch(4))
    before = stream.current

    with pytest.raises(RuntimeError, match="tripped"):
        serve(stream, poison(4))

    assert stream.current is before
    assert serve(stream, batch(4)).action is Action.KEPT


def test_streams_of_one_model_share_nothing_but_the_frozen_weights(model):
    checksum = model.source.checksum()
    together = [begin(model), begin(model)]
    alone = begin(model)

    for seed in range(3):
        for number, stream in enumerate(together):
            serve(stream, batch(4, seed=10 * number + seed))
        serve(alone, batch(4, seed=10 + seed))

    assert_same_state(together[1].current.state, alone.current.state)
    assert model.source.checksum() == checksum
