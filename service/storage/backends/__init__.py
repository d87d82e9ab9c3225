"""The storage itself: a catalogue in a database, and blobs in a folder or an object store."""
