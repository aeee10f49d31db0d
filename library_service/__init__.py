"""The library: what owners saved for good."""
