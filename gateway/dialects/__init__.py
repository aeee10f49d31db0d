"""Other HTTP APIs, spoken so that their SDKs work unchanged: thin translations onto the RPCs of the contracts.

A dialect has no state, and no rule about jobs. What it takes stands in tables (`fields`), out of which requests are
read and docs/dialects.md is made.
"""
