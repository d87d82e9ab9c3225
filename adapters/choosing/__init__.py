"""An adapter that runs one of several pipelines, chosen by what its stream looks like."""
