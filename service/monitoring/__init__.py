"""What speaks for or against a stream: pure functions over values."""
