"""Every request of the API as a value: what to send, and how to read the answer. Nothing here does I/O."""
