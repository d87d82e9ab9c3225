"""The prepared network: norm slots, one stream or many, and the frozen model as an observer."""
