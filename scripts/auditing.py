"""Runs pip-audit on the lock files and judges its report.

pip-audit says "No known vulnerabilities found" and ends with 0 if the registry has no data at all, and it ends with 1
both for a finding and for a network that cannot be reached. So this reads the report: a finding fails, and an audit
that did not take place is reported as such.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCKS = ("scripts/requirements.lock", "scripts/lowest.lock")
SECONDS = 60
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "NameResolutionError", "ServiceError")
"""What pip-audit prints if it cannot reach its data."""


def main() -> int:
    """Audits each lock file while the data is reachable.

    Returns 1 for a finding, and if pip-audit fails for another reason than the network.
    """
    for lock in LOCKS:
        if (code := audit(lock)) != 0:
            return max(0, code)
    return 0


def audit(lock: str) -> int:
    """Audits one lock file: 0, 1, or -1 if the data is unreachable."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip_audit = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--timeout", "5"]
        command = [*pip_audit, "--disable-pip", "--require-hashes", "-r", lock, "-f", "json", "-o", str(report)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return unreachable(lock, f"no answer within {SECONDS} seconds")
        found = json.loads(report.read_text()) if report.exists() else None
        return judge(lock, found, done.returncode, done.stderr)


def judge(lock: str, report: dict[str, Any] | None, code: int, errors: str) -> int:
    """The exit code for a report of pip-audit, or for its failure without one."""
    if report is None:
        if any(one in errors for one in UNREACHABLE):
            return unreachable(lock, errors.strip().splitlines()[-1][:200])
        print(f"scripts/audit: {lock}: pip-audit failed with exit code {code}:\n{errors}", file=sys.stderr)
        return 1
    packages = report["dependencies"]
    audited = [one for one in packages if "skip_reason" not in one]
    findings = [(one, vulnerability) for one in audited for vulnerability in one["vulns"]]
    for one, vulnerability in findings:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
        print(f"{lock}: {one['name']} {one['version']} has {vulnerability['id']}, fixed in {fixed}", file=sys.stderr)
    if findings:
        print("scripts/audit: raise the bounds in pyproject.toml, then: scripts/lock --upgrade", file=sys.stderr)
        return 1
    if not audited:
        return unreachable(lock, packages[0]["skip_reason"] if packages else "the report is empty")
    print(f"scripts/audit: {lock}: no known vulnerability in {len(audited)} of {len(packages)} packages")
    return 0


def unreachable(lock: str, reason: str) -> int:
    """Reports that an audit did not take place: -1."""
    print(f"scripts/audit: {lock} was NOT audited, because the data is unreachable: {reason}", file=sys.stderr)
    return -1


if __name__ == "__main__":
    sys.exit(main())
