"""What `make bench` measures.

Figures are ratios and medians of one run, with the environment beside them; never a timed test.
"""
