"""An adapter that chooses among several pipelines, and the measurements that it decides by."""
