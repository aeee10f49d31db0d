"""The auditor: reads the evidence of a run and says what is wrong.

`python -m faults.auditor FOLDER` reads what was kept of one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from faults.audits import AUDITS
from faults.audits.blobs import unowned
from faults.evidence import Evidence
from faults.finding import Finding


def audit(evidence: Evidence) -> list[Finding]:
    """Return everything that is wrong; empty when every promise was kept."""
    return [finding for check in AUDITS for finding in check(evidence)]


def main() -> int:
    """Audit the evidence in a folder again. Returns 0 when it is clean."""
    evidence = Evidence.load(Path(sys.argv[1]))
    found = audit(evidence)
    lines = [str(finding) for finding in found] or ["clean"]
    lines += [f"{count} unowned blobs: {why}" for why, count in unowned(evidence).items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
