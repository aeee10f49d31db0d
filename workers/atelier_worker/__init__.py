"""The worker: takes leases from the router, runs them in an engine, uploads what it makes."""
