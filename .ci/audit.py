"""Ask PyPI about known holes in every locked package. Exit code 1 if there is one; loud if it could not be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run pip-audit and judge what it says."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"AUDIT NOT DONE: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return 0
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    holes = [(each["name"], hole["id"], hole["fix_versions"]) for each in packages for hole in each.get("vulns", ())]
    for name, hole, fixed in holes:
        print(f"{name}: {hole}, fixed in {', '.join(fixed) or 'no version yet'}")
    print(f"audit: {len(packages) - len(skipped)} packages asked about, {len(holes)} known holes")
    if skipped:
        print(f"AUDIT NOT COMPLETE: {len(skipped)} packages could not be asked about")
    return bool(holes)


if __name__ == "__main__":
    sys.exit(main())
