"""The control plane: jobs, models, routing, queue, leases, workers, events, and who may do what."""
