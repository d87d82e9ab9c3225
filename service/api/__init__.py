"""The HTTP layer: routes, wire schemas, error bodies. It does no tensor computation."""
