"""The files of an export: the graph, its initial state, and a README that shows how to run them."""

import io
from string import Template

import numpy as np

from adapters.state import flatten
from service.models.kernels.graphs.cache import Made, Wanted
from service.models.kernels.graphs.export import STATE, with_facts

GRAPH_FILE, STATE_FILE, README_FILE = "adapting.onnx", "state.npz", "README.md"
README = Template("""\
# $model $version, adapting by `$adapter`

`$graph_file` holds the model and its adaptation as one ONNX graph; `$state_file` is its state before any batch. Running
it needs only ONNX Runtime and NumPy. Each run answers a batch and returns the state for the next one:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("$graph_file", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
state = dict(np.load("$state_file"))

def answer(images):  # $shape float32, values from $low to $high
    global state
    found = dict(zip(names, session.run(names, {"$input": images, **state})))
    state = {name: found.get(f"{name}/after", value) for name, value in state.items()}
    return found["probabilities"]  # (N, $classes)

print(answer(np.full((8, $sides), $low, dtype=np.float32)).argmax(1))
```

- To start over, load `$state_file` again. To save the adapted state, call `np.savez("mine.npz", **state)`.
- Feed at least $least images a batch: $why.
- `logits` and `signal/...` (entropy, drift) are outputs too. Nothing guards this state: watch them.
- Classes: $names.
- Fingerprint of the model: `$fingerprint`; made by $made_by. Licence of the model: $licence.
""")


def files(wanted: Wanted, made: Made) -> dict[str, bytes]:
    """Return the files of an export of a pipeline's graph by name."""
    content = with_facts(made.content, made.facts_of(wanted))
    return {GRAPH_FILE: content, STATE_FILE: _state(wanted, made), README_FILE: _readme(wanted, made).encode()}


def _state(wanted: Wanted, made: Made) -> bytes:
    """Return the graph's state inputs before any batch as an .npz file."""
    initial = flatten(wanted.own.fit.initial)
    file = io.BytesIO()
    read = {name: initial[name.removeprefix(STATE)].numpy() for name in made.kernel.session.reads}
    np.savez(file, allow_pickle=False, **read)
    return file.getvalue()


def _readme(wanted: Wanted, made: Made) -> str:
    bundle, spec = wanted.bundle, wanted.bundle.input
    low, high = spec.value_range
    why = "its normalizer or adjuster needs as many" if made.least_images > 1 else "any number will do"
    return README.substitute(
        wanted.facts, graph_file=GRAPH_FILE, state_file=STATE_FILE, input=spec.name, low=low, high=high, why=why,
        shape=f"(N, {', '.join(map(str, spec.shape))})", sides=", ".join(map(str, spec.shape)),
        classes=len(bundle.classes), names=", ".join(bundle.classes), least=made.least_images,
        licence=bundle.toml.licence,
    )  # fmt: skip
