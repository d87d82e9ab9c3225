"""HTTP only: routes, wire schemas, error bodies; no torch."""
