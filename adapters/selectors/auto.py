"""Auto: picks normalizer, learner and output adjuster for each stream from measurements of the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from adapters.adapter import Spec
from adapters.choosing.adapter import Choosing, Make, Selector
from adapters.choosing.diagnosis import Situation
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.options import Options, option

Alternative: TypeAlias = tuple[str, Mapping[str, Mapping[str, Any]]]
INSTANCE: Mapping[str, Any] = {"shared": "running", "momentum": 0.1, "full_batch": 64}
FOLLOW: Mapping[str, Any] = {"alpha": 0.8, "full_batch": 64}
NEIGHBOURS: Mapping[str, Any] = {"kernel": "knn", "k": 10}


@dataclass(frozen=True, kw_only=True)
class AutoOptions(Options):
    """Thresholds between the situations, and settings of the measurements."""

    decide_after: int = option(256, "number of images before a decision", low=1, high=10**6)
    calm_distance: float = option(0.042, "norm-statistics distance below which a stream may be calm", low=0.0)
    calm_entropy: float = option(
        0.12, "entropy, as a share of ln(classes), below which such a stream is calm", low=0.0, high=1.0
    )
    correlated: float = option(
        0.09, "correlation of successive answers above which neighbours share labels", low=0.0, high=1.0
    )
    rough: float = option(
        0.38, "mean change of the log distance from image to image above which domains are mixed", low=0.0
    )
    few: int = option(2, "mean images per request below which requests are single images", low=1, high=10**6)
    many: int = option(32, "mean images per request from which requests are large", low=1, high=10**6)
    views: int = option(8, "augmented views per answer on fair samples, each a pass; 0 is cheapest", low=0, high=256)
    check_every: int = option(
        4, "after a decision, the frozen model checks one in this many requests", low=1, high=10**6
    )
    memory: int = option(
        64, "time constant, in images, of the moving norm statistics in these checks", low=1, high=10**6
    )
    tolerance: float = option(0.1, "changes of the log distance up to this are no drift", low=0.0)
    threshold: float = option(1.0, "summed changes of the log distance above this are a drift event", low=0.0)


class Auto(Selector):
    """Measure request size, correlation of answers, norm-statistics distance and entropy; run the pipeline that fits.

    Decides after `decide_after` images, and again after each drift event (Page-Hinkley on the distance), never in
    between. Situations: `one_by_one` (mixed domains, or single images whose neighbours share labels: each image is
    normalised alone), `calm` (the source domain: no adaptation), `correlated` (neighbours share labels), `single`,
    `small` and `fair` (single images, small and large requests with a fair sample of the classes). Before the first
    decision the answers of `one_by_one` and `small` are averaged; in the situation `single`, those of `single` and
    `one_by_one`. Distance and entropy come from the frozen model, which runs on a share of the requests: this detects a
    return to the source domain whatever was learned.
    `explain` gives the choice and its reasons in words; the signals `choice`, `drift_events`, `label_correlation`,
    `label_run_length` and `source_distance` give them in numbers.

    Remembers: the running pipeline's state, norm statistics of the newest images, and 25 numbers about the stream.
    Needs: nothing; pipelines that do not fit the model are left out and named in `degraded`.
    Reference: ours; each part names its own paper.

    Example:
        >>> from adapters import create
        >>> str(create("auto", auto={"few": 4}).spec)
        'auto'
    """

    name = "auto"
    paper = "ours"
    remembers = "the running pipeline's state, norm statistics of the newest images, and 25 numbers about the stream"
    pure_graph = False
    options_class = AutoOptions
    options: AutoOptions

    def adapter(self, make: Make, seed: int) -> Choosing:
        """Return the adapter that chooses."""
        options = self.options
        return Choosing(
            spec=Spec(self.name),
            alternatives={name: [make(*each) for each in several] for name, several in self._alternatives().items()},
            opening=("one_by_one", "small"),
            partners={"single": "one_by_one"},
            idle="calm",
            decide=self.decide,
            settings=options,
            decide_after=options.decide_after,
            check_every=options.check_every,
            detector=PageHinkleyOptions(
                tolerance=options.tolerance, threshold=options.threshold, forgetting=1.0, at_least=3
            ),
            memory=options.memory,
            seed=seed,
        )

    def _alternatives(self) -> Mapping[str, Sequence[Alternative]]:
        """Return the pipelines for each situation, best first; chosen on five corruptions of CIFAR-10-C."""
        views = {"views": self.options.views}
        return {
            "one_by_one": [("note_iabn+note", {}), ("source", {})],
            "calm": [("source", {})],
            "correlated": [
                ("note_iabn+lame", {"note_iabn": INSTANCE, "lame": NEIGHBOURS}),
                ("source+lame", {"lame": NEIGHBOURS}),
            ],
            "single": [("rotta_bn", {"rotta_bn": FOLLOW}), ("source", {})],
            "small": [("rotta_bn+eta", {"rotta_bn": FOLLOW}), ("source+eta", {}), ("source", {})],
            "fair": [
                ("rotta_bn+rmt", {"rotta_bn": FOLLOW, "rmt": views}),
                ("batch+rmt", {"rmt": views}),
                ("rotta_bn+roid", {"rotta_bn": FOLLOW}),
                ("source+eta", {}),
                ("source", {}),
            ],
        }

    def decide(self, situation: Situation) -> str:
        """Return the name of a situation."""
        options = self.options
        near = situation.distance is None or situation.distance < options.calm_distance
        if near and situation.entropy < options.calm_entropy:
            return "calm"
        single = situation.batch < options.few
        if situation.correlation > options.correlated:
            return "one_by_one" if single else "correlated"
        if situation.roughness > options.rough:
            return "one_by_one"
        if single:
            return "single"
        return "small" if situation.batch < options.many else "fair"
