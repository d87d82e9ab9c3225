"""Finds all parts in the part folders, and makes adapters from a spec."""

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any, Literal, TypeAlias, cast

import adapters.learners
import adapters.normalizers
import adapters.outputs
import adapters.selectors
from adapters.adapter import Adapter, Spec
from adapters.base import Learner, Normalizer, OutputAdjuster, Part
from adapters.choosing.adapter import Choosing, Selector
from adapters.errors import OptionError, SpecError
from adapters.options import build_options
from adapters.pipeline import Pipeline
from adapters.precision import FLOAT32, PRECISIONS
from adapters.presets import combined

Kind: TypeAlias = Literal["normalizer", "learner", "output", "selector"]
FOLDERS: Mapping[Kind, ModuleType] = {
    "normalizer": adapters.normalizers,
    "learner": adapters.learners,
    "output": adapters.outputs,
    "selector": adapters.selectors,
}
KIND_OF_BASE: Mapping[type[Part], Kind] = {
    Normalizer: "normalizer",
    Learner: "learner",
    OutputAdjuster: "output",
    Selector: "selector",
}
MAX_SEED = 2**63 - 1


@cache
def parts(kind: Kind) -> dict[str, type[Part]]:
    """Return the parts of one kind by name: every Part class defined in the kind's folder."""
    found = {part.name: part for part in _defined_in(FOLDERS[kind])}
    return dict(sorted(found.items()))


def kind_of(part: type[Part]) -> Kind:
    """Return the kind of a part."""
    return next(kind for base, kind in KIND_OF_BASE.items() if issubclass(part, base))


def parse(text: str) -> Spec:
    """Read a spec such as `unmix_tns+eta+lame`; the learner's defaults fill in missing parts.

    Raises:
        SpecError: If a name is unknown, or two names are of the same kind.

    Example:
        >>> str(parse("tent")), str(parse("lame+unmix_tns"))
        ('batch+tent', 'unmix_tns+lame')
    """
    chosen: dict[Kind, str] = {}
    for name in text.split("+"):
        kind = _kind_of_name(name.strip())
        if kind == "selector":
            raise SpecError(
                f"{text!r} joins the selector {name.strip()!r} with other parts; a selector picks the parts itself and "
                "stands alone"
            )
        if kind in chosen:
            raise SpecError(f"{text!r} names two {kind}s, {chosen[kind]!r} and {name.strip()!r}; expected one at most")
        chosen[kind] = name.strip()
    learner = cast("type[Learner[Any]]", parts("learner")[chosen.get("learner", "none")])
    return Spec(chosen.get("normalizer", learner.normalizer), learner.name, chosen.get("output", learner.output))


def create(spec: str, /, *, seed: int = 0, precision: str = FLOAT32, **options: Mapping[str, object]) -> Adapter:
    """Make an adapter from a spec and the options of its parts.

    Args:
        spec: Part names joined by `+`, such as `unmix_tns+eta+lame`; or a selector, such as `auto`.
        seed: The seed of all random draws.
        precision: The dtype that convolutions and matrix products compute in, `float32` or `bfloat16`; norm layers,
            states and answers are always float32.
        **options: A mapping of options for each part, by part name.

    Raises:
        SpecError: If the spec names no adapter.
        OptionError: If an option is unknown, of the wrong type or out of range, or its part is not in the spec.

    Example:
        >>> adapter = create("unmix_tns+tent", tent={"lr": 1e-4}, seed=7)
        >>> str(adapter.spec), adapter.options["tent"].lr
        ('unmix_tns+tent', 0.0001)
    """
    name = spec.strip()
    if name not in parts("selector"):
        return pipeline(spec, seed=seed, precision=precision, **options)
    _check_seed(seed)
    _check_strangers(options, [name], name)
    selector = cast("Selector", _make("selector", name, options))
    return selector.adapter(lambda chosen, own: pipeline(chosen, seed=seed, precision=precision, **own), seed)


def pipeline(spec: str, /, *, seed: int = 0, precision: str = FLOAT32, **options: Mapping[str, object]) -> Pipeline:
    """Make a pipeline of a normalizer, a learner and an output adjuster; like `create`, but without selectors.

    Raises:
        SpecError: If the spec names no pipeline.
        OptionError: If an option is unknown, of the wrong type or out of range, or its part is not in the spec.

    Example:
        >>> pipeline("lame").normalizer.name
        'source'
    """
    _check_seed(seed)
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    parsed = parse(spec)
    names = [parsed.normalizer, parsed.learner, parsed.output]
    _check_strangers(options, names, str(parsed))
    preset = combined(parsed.normalizer, parsed.learner)
    return Pipeline(
        spec=parsed,
        normalizer=cast("Normalizer[Any]", _make("normalizer", parsed.normalizer, options, preset)),
        learner=cast("Learner[Any]", _make("learner", parsed.learner, options, preset)),
        output=cast("OutputAdjuster[Any]", _make("output", parsed.output, options, preset)),
        added=cast("Normalizer[Any]", _make("normalizer", "batch", {})),
        seed=seed,
        precision=precision,
    )


def pipelines_of(adapter: Adapter) -> Sequence[Pipeline]:
    """Return the pipelines that an adapter may run; for a pipeline, itself.

    Example:
        >>> [str(pipeline.spec) for pipeline in pipelines_of(create("eta"))]
        ['batch+eta']
    """
    if isinstance(adapter, Choosing):
        return adapter.pipelines
    return [adapter] if isinstance(adapter, Pipeline) else []


def _check_seed(seed: int) -> None:
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise OptionError(f"seed is {seed!r}, expected an integer from 0 to 2^63 - 1")


def _check_strangers(options: Mapping[str, object], names: Collection[str], spec: str) -> None:
    strangers = sorted(set(options) - set(names) | {name for name in options if name == "none"})
    if strangers:
        raise OptionError(f"options name {strangers[0]!r}, which is no part of {spec!r}")


def _make(
    kind: Kind,
    name: str,
    options: Mapping[str, Mapping[str, object]],
    preset: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> Part:
    part = parts(kind)[name]
    own = options.get(name, {})
    if not isinstance(own, Mapping):
        raise OptionError(f"options of {name} are {own!r}, expected an object of its options")
    return part(build_options(part.options_class, name, {**preset.get(name, {}), **own}))


def _kind_of_name(name: str) -> Kind:
    for kind in KIND_OF_BASE.values():
        if name != "none" and name in parts(kind):
            return kind
    names = sorted({part_name for kind in KIND_OF_BASE.values() for part_name in parts(kind)} - {"none"})
    raise SpecError(f"no adapter part is named {name!r}; there are: {', '.join(names)}")


def _defined_in(folder: Any) -> Iterator[type[Part]]:
    for info in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Part) and value.__module__ == module.__name__:
                yield value
