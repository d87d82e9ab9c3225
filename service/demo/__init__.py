"""The embedded demo: a small trained bundle, test images, and corruptions that make them drift."""
