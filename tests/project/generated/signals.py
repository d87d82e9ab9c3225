"""The page of every field, signal, action, event and metric."""

from collections.abc import Iterable, Mapping

from prometheus_client.metrics import MetricWrapperBase

from service.monitoring.guard import Policy
from service.monitoring.history_tiers import SIGNALS as IN_SERIES
from service.telemetry.metrics import Telemetry
from tests.project.generated import found, meanings
from tests.project.generated.tables import page, table

INTRO = """\
Four places show the figures of a stream: each answer, under `parameters`; the stream itself, `GET
/v1/streams/{id}`; its series, `GET /v1/streams/{id}/history`; and, over all streams, `/metrics`.
[Monitoring](monitoring.md) says how each signal is watched, and how soon a change is found."""
FIELDS = """\
An answer of the V2 protocol has these parameters. Each signal of an answer, listed below, is one more, under the
name `tta_<signal>`."""
SIGNALS = """\
A signal that is not known is absent. *Answer*: it is `tta_<signal>` in an answer, if the stream's spec has it.
*Series*: the stream's series and the page's charts show it. All signals but `source_age` and `milliseconds` are in
the metrics `acclimate_stream_signal_*`, where `source_agreement` is called `agreement`. Shares lie between 0 and 1."""
ACTIONS = "`tta_action` names the outcome of the request's learning:"
RULES = """\
A guard decides by its policy, the field `guard` of a stream. Most rules answer `off`, `skip`, `reset`, `roll_back`
or `freeze`."""
EVENTS = "Events are listed by `GET /v1/events` and sent live by `GET /v1/events/live`. They are of these kinds:"
CAUSES = "An event `suspected`, and the metric `acclimate_streams_suspected`, name one of these causes:"
METRICS = """\
`GET /metrics` answers in Prometheus' text format. No label names a stream, since their number is not bounded. A
histogram has the series `_bucket`, `_sum` and `_count`."""
LABELS = "Their labels:"


def signals() -> str:
    return page(
        "Signals and metrics",
        INTRO,
        "## Fields of an answer",
        FIELDS,
        table(("field", "meaning"), ((f"`tta_{name}`", said) for name, said in meanings.FIELDS.items())),
        "## Signals",
        SIGNALS,
        table(("signal", "unit", "answer", "series", "meaning"), _signals()),
        "## Actions",
        ACTIONS,
        _explained("action", meanings.ACTIONS),
        "## Rules of a guard",
        RULES,
        table(("field", "default", "meaning"), _rules()),
        "## Events",
        EVENTS,
        _explained("kind", meanings.EVENTS),
        CAUSES,
        _explained("cause", meanings.CAUSES),
        "## Metrics",
        METRICS,
        table(("metric", "type", "labels", "meaning"), _metrics()),
        LABELS,
        _explained("label", meanings.LABELS),
    )


def metrics() -> list[MetricWrapperBase]:
    """Every metric of the server, in the order of the code."""
    registered = Telemetry().registry._collector_to_names
    return [metric for metric in registered if isinstance(metric, MetricWrapperBase)]


def labels_of(metric: MetricWrapperBase) -> tuple[str, ...]:
    return tuple(metric._labelnames)


def exposed(metric: MetricWrapperBase) -> str:
    """The name under which Prometheus finds a metric."""
    family = next(iter(metric.describe()))
    return f"{family.name}_total" if family.type == "counter" else family.name


def _signals() -> Iterable[tuple[str, ...]]:
    answered = found.answered()
    for name, (unit, meaning) in meanings.SIGNALS.items():
        answer, series = ("yes" if name in names else "" for names in (answered, IN_SERIES))
        yield f"`{name}`", unit, answer, series, meaning


def _rules() -> Iterable[tuple[str, ...]]:
    for name, field in Policy.model_fields.items():
        yield f"`{name}`", f"`{field.default}`", field.description or ""


def _metrics() -> Iterable[tuple[str, ...]]:
    for metric in metrics():
        family = next(iter(metric.describe()))
        names = ", ".join(f"`{label}`" for label in labels_of(metric))
        yield f"`{exposed(metric)}`", family.type, names, family.documentation


def _explained(head: str, said: Mapping[str, str]) -> str:
    return table((head, "meaning"), ((f"`{name}`", text) for name, text in said.items()))
