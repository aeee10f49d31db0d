"""Calls between services of one process: the handlers and layers of gRPC's server without its sockets.

It is used where somebody says so (`near` of `channels.connect`), as where one process runs all services. What it does
is what gRPC does, as far as services see it; both pass the same tests.
"""
