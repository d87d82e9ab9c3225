"""Options that a combination needs where the defaults of its parts, each tuned alone, would harm it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NAMES = ("tent", "eta", "eata", "rdumb", "cotta", "rotta", "note", "roid", "rmt")
PRESETS: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # At the learners' own 1e-3, entropy learning under UnMix-TNS collapses (87 % error against 53 % on CIFAR-10-C);
        # its authors use 1e-5 under every gradient learner.
        **{("unmix_tns", name): {name: {"lr": 1e-5}} for name in NAMES},
        # Its components must follow the teacher's augmented views, or CoTTA makes it worse (50 % against 40 %).
        ("unmix_tns", "cotta"): {"cotta": {"lr": 1e-5, "observe_views": True}},
        # And the answered images, not RoTTA's memory alone (54.8 % against 52.2 %).
        ("unmix_tns", "rotta"): {"rotta": {"lr": 1e-5, "observe_stream": True}},
    }
)


def combined(normalizer: str, learner: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the options, by part, of a normalizer under a learner where they differ from the parts' own defaults.

    Example:
        >>> combined("unmix_tns", "tent")
        {'tent': {'lr': 1e-05}}
    """
    return PRESETS.get((normalizer, learner), {})
