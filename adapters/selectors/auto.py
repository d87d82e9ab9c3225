"""Auto: picks normalizer, learner and output adjuster for each stream by what the stream looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from adapters.adapter import Spec
from adapters.choosing import Choosing, Make, Selector, Situation
from adapters.monitors.page_hinkley import PageHinkleyOptions
from adapters.options import Options, option

Alternative: TypeAlias = tuple[str, Mapping[str, Mapping[str, Any]]]
INSTANCE: Mapping[str, Any] = {"shared": "running", "momentum": 0.1, "full_batch": 64}
FOLLOW: Mapping[str, Any] = {"alpha": 0.8, "full_batch": 64}
NEIGHBOURS: Mapping[str, Any] = {"kernel": "knn", "k": 10}


@dataclass(frozen=True, kw_only=True)
class AutoOptions(Options):
    """Where one situation ends and another begins."""

    decide_after: int = option(128, "images that a decision rests on", low=1, high=10**6)
    calm_distance: float = option(0.03, "norm-statistics distance below which nothing is done", low=0.0)
    calm_entropy: float = option(0.15, "and the entropy below which, as a share of ln(classes)", low=0.0, high=1.0)
    correlated: float = option(0.1, "share of repeated labels beyond chance that means correlation", low=0.0, high=1.0)
    few: int = option(2, "requests of fewer images than this get no learner", low=1, high=10**6)
    views: int = option(8, "augmented views per answer on fair samples, each a pass; 0 is cheapest", low=0, high=256)
    tolerance: float = option(0.1, "changes of the distance's logarithm up to this are no drift event", low=0.0)
    threshold: float = option(1.5, "summed changes of the distance's logarithm that are a drift event", low=0.0)


class Auto(Selector):
    """Watch requests' sizes, runs of predicted labels, norm-statistics distance and entropy; run what fits them.

    Decides once enough images have come, and again after each drift event (Page-Hinkley on the distance), never in
    between. Situations: `calm` (the source's own domain: nothing is done), `correlated` (neighbours share labels),
    `fair` (a fair sample of the classes in each batch), `few` (the same in requests too small to learn from), and
    `unknown` before the first decision. `explain` says in words what was chosen and why; the signals `choice`,
    `drift_events`, `label_excess` and `label_run_length` say it in numbers. The distance is the running pipeline's:
    once its weights have moved, a return to the source's own domain is not seen (docs/comparison.md).

    Remembers: the running pipeline's state, and 20 numbers about the stream.
    Needs: nothing; what a model is unfit for is left out, and said.
    Reference: ours; the parts' papers stand at the parts.

    Example:
        >>> from adapters import create
        >>> str(create("auto", auto={"few": 4}).spec)
        'auto'
    """

    name = "auto"
    paper = "ours"
    remembers = "the running pipeline's state, and 20 numbers about the stream"
    pure_graph = False
    options_class = AutoOptions
    options: AutoOptions

    def adapter(self, make: Make, seed: int) -> Choosing:
        """Return the adapter that chooses."""
        options = self.options
        return Choosing(
            spec=Spec(self.name),
            alternatives={name: [make(*each) for each in several] for name, several in self._alternatives().items()},
            decide=self.decide,
            settings=options,
            decide_after=options.decide_after,
            detector=PageHinkleyOptions(tolerance=options.tolerance, threshold=options.threshold, at_least=4),
            seed=seed,
        )

    def _alternatives(self) -> Mapping[str, Sequence[Alternative]]:
        """For each situation what serves it, best first; chosen on five corruptions of CIFAR-10-C."""
        views = {"views": self.options.views}
        return {
            "unknown": [("note_iabn", {"note_iabn": INSTANCE}), ("source", {})],
            "calm": [("source", {"source": {"measure": True}})],
            "correlated": [
                ("note_iabn+lame", {"note_iabn": INSTANCE, "lame": NEIGHBOURS}),
                ("source+lame", {"lame": NEIGHBOURS}),
            ],
            "fair": [
                ("rotta_bn+rmt", {"rotta_bn": FOLLOW, "rmt": views}),
                ("batch+rmt", {"rmt": views}),
                ("rotta_bn+roid", {"rotta_bn": FOLLOW}),
                ("source+eta", {}),
                ("source", {}),
            ],
            "few": [("rotta_bn", {"rotta_bn": FOLLOW}), ("source", {})],
        }

    def decide(self, situation: Situation) -> str:
        """Return the name of a situation."""
        options = self.options
        near = situation.distance is None or situation.distance < options.calm_distance
        if near and situation.entropy < options.calm_entropy:
            return "calm"
        if situation.excess > options.correlated:
            return "correlated"
        return "few" if situation.batch < options.few else "fair"
