"""The errors of the engine.

AdapterError
├── SpecError          the spec names no adapter
├── OptionError        an option does not exist or is out of range
├── UnfitModelError    a part cannot work on this model
└── StateError         named tensors are not a state of this adapter on this model
"""


class AdapterError(Exception):
    """Any error of the engine; the message names the wrong value and the expected one."""


class SpecError(AdapterError):
    """The spec names an unknown part, or two parts of one kind, or joins a selector with other parts."""


class OptionError(AdapterError):
    """An option is unknown, of the wrong type or out of its range."""


class UnfitModelError(AdapterError):
    """The model does not meet the needs of a part; the message names the part and the need."""


class StateError(AdapterError):
    """Named tensors are not a state: names, shapes or dtypes differ, or values are not finite or out of range."""
