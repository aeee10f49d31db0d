"""Helpers that tests of several parts share.

This comes before gRPC is imported, which has to know it then: around every fork it would stop its threads and wait for
them, and as root the test server is started by one. All that we start is another program at once.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
