"""What the engine refuses, and why.

AdapterError
├── SpecError          a pipeline text that names no pipeline
├── OptionError        an option that does not exist or is out of range
├── UnfitModelError    a part that cannot work on this model
└── StateError         named tensors that are no state of this adapter on this model
"""


class AdapterError(Exception):
    """Any refusal of the engine; the message says what was given and what was expected."""


class SpecError(AdapterError):
    """The spec names an unknown part, or two parts of one kind."""


class OptionError(AdapterError):
    """An option is unknown, of the wrong type or out of its range."""


class UnfitModelError(AdapterError):
    """The model lacks what a part needs; the message names the part, the need and what would do."""


class StateError(AdapterError):
    """Named tensors do not make up a state: names, shapes, dtypes or finiteness differ."""
