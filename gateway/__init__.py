"""HTTP/JSON and server-sent events in, gRPC out. Translation only: no state, no rule about jobs, assets or items."""
