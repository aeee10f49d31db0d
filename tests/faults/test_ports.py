"""Ports: processes that share out tests are never given the same one, for nobody may listen at it yet."""

from __future__ import annotations

import pytest

from faults.ports import SHARES, free_port


def test_processes_that_share_out_tests_are_given_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        shares.append({free_port() % SHARES for _ in range(50)})
    assert not shares[0] & shares[1]
