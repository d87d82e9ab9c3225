"""Names that the code gives to signals, fields of answers and events, read from its syntax."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from service.monitoring.signals import every_signal
from tests.serving import ROOT

READINGS = ROOT / "service/streams/readings.py"
DATAPLANE, DISTRIBUTIONS = ROOT / "service/serving/dataplane.py", ROOT / "service/serving/signal_distributions.py"
RECORDER = ROOT / "service/storage/recorder.py"
PREFIX = "tta_"


def fields() -> set[str]:
    """Fields that every answer may have, without `tta_`; those of its signals are not among them."""
    named = {name for name in _keys(_function(DATAPLANE, "_facts")) if name.startswith(PREFIX)}
    return {name.removeprefix(PREFIX) for name in named}


def answered() -> set[str]:
    """Signals of an answer: those of methods, and those that the server adds."""
    return _of_methods() | set(_keys(_function(READINGS, "_signals")))


def monitored() -> set[str]:
    """Signals that monitors and the server find beside an answer."""
    return set(every_signal()) | set(_keys(_function(READINGS, "_parameter_distances")))


def shown() -> set[str]:
    """Names under which further signals stand in metrics and in histories."""
    from_metrics, from_history = _function(DISTRIBUTIONS, "signals_of"), _function(RECORDER, "_series")
    return {*_keys(from_metrics), *_keys(from_history)}


def events() -> set[str]:
    """Kinds of events."""
    calls = (
        node
        for file in sorted((ROOT / "service").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Happening"
    )
    return {kind for call in calls for kind in _texts(call.args[0])}


def event_words() -> set[str]:
    """Kinds of events that the page has a word for."""
    listed = (ROOT / "service/dashboard/eventlist.js").read_text().partition("export const KINDS = {")[2]
    return set(re.findall(r"^  (\w+): ", listed.partition("\n};")[0], re.MULTILINE))


def _of_methods() -> set[str]:
    """Signals that methods give with a step: by `Learned`, by `signals=`, by an item of `signals`, by a loss's pass."""
    found: set[str] = set()
    for file in sorted((ROOT / "adapters").rglob("*.py")):
        for function in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)):
            given = list(_given(function))
            named = {"signals"} | {value.id for value in given if isinstance(value, ast.Name)}
            assigned = list(_assigned(function, named))
            of_pass = _passed(function) if any(map(_is_joint, assigned)) else ()
            for value in (*given, *assigned, *of_pass):
                found |= set(_keys(value))
            if function.name == "_signals":
                found |= set(_keys(function))
    return found


def _given(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield the expressions that a function gives as signals."""
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name("Learned"), args=[_, _, _, value]):
                yield value
            case ast.keyword(arg="signals", value=value):
                yield value


def _passed(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield the mappings that a loss's pass in a function gives besides the loss."""
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name("Passed"), args=[_, _, _, value]):
                yield value


def _is_joint(node: ast.AST) -> bool:
    """Whether an assignment takes what a loss's pass gives."""
    return isinstance(node, ast.Assign) and getattr(getattr(node.value, "func", None), "id", "") == "joint_gradient"


def _assigned(function: ast.FunctionDef, names: set[str]) -> Iterator[ast.AST]:
    """Yield what a function assigns to variables of these names, or to items of them."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets) if names & set(map(_name, _flat(targets))):
                yield node
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value) if name in names:
                yield value


def _function(file: Path, name: str) -> ast.FunctionDef:
    functions = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef))
    found = next((function for function in functions if function.name == name), None)
    assert found is not None, f"{file} has no function {name}: name the one that gives the signals in {__file__}"
    return found


def _keys(tree: ast.AST) -> Iterator[str]:
    """Yield the constant keys of all mappings made in a tree, and those that are set by an index."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (text for key in node.keys if key is not None for text in _texts(key))
        if isinstance(node, ast.Assign):
            yield from _subscripts(node.targets)


def _subscripts(targets: list[ast.expr]) -> Iterator[str]:
    for target in _flat(targets):
        if isinstance(target, ast.Subscript):
            yield from _texts(target.slice)


def _flat(targets: list[ast.expr]) -> Iterator[ast.expr]:
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple) else [target]


def _name(target: ast.expr) -> str:
    """The variable that an assignment sets, or sets an item of."""
    return getattr(target.value if isinstance(target, ast.Subscript) else target, "id", "")


def _texts(node: ast.AST) -> list[str]:
    """The text of a constant, or of both choices of a conditional expression."""
    match node:
        case ast.Constant(str() as text):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body) + _texts(orelse)
    return []
