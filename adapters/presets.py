"""Options for combinations of parts whose default options, tuned for each part alone, work badly together."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NAMES = ("tent", "eta", "eata", "rdumb", "cotta", "rotta", "note", "roid", "rmt")
PRESETS: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # At the learners' own 1e-3, entropy learning under UnMix-TNS collapses (87 % error against 53 % on CIFAR-10-C);
        # its authors use 1e-5 under every gradient learner.
        **{("unmix_tns", name): {name: {"lr": 1e-5}} for name in NAMES},
        # The components of UnMix-TNS must follow the teacher's augmented views, or CoTTA makes it worse (50 % error
        # against 40 %).
        ("unmix_tns", "cotta"): {"cotta": {"lr": 1e-5, "observe_views": True}},
        # They must also follow the answered images, not only RoTTA's memory (54.8 % error against 52.2 %).
        ("unmix_tns", "rotta"): {"rotta": {"lr": 1e-5, "observe_stream": True}},
    }
)


def combined(normalizer: str, learner: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of this normalizer and learner that differ from the defaults, by part name.

    Example:
        >>> combined("unmix_tns", "tent")
        {'tent': {'lr': 1e-05}}
    """
    return PRESETS.get((normalizer, learner), {})
