"""The load on Atelier: submitters and workers on bare stubs, each in a process of its own."""
