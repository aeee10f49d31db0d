"""Bringing in galleries of other systems: what their files say, their tables, and the run that takes them over."""
