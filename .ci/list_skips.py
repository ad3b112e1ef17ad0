"""Prints the tests that no step ran, each with its reason: `list_skips.py --at-most N report.xml…`. Exits 1 where they are more than N."""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path


def list_skips(reports: Iterable[Path]) -> dict[str, str]:
    """The reasons of the tests that are skipped in one report and passed in none."""
    skips, passed = {}, set()
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            skip = case.find("skipped")
            if skip is None:
                passed.add(name)
            else:
                skips[name] = skip.get("message") or "no reason"
    return {name: reason for name, reason in skips.items() if name not in passed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-most", type=int, required=True)
    parser.add_argument("reports", nargs="+", type=Path)
    arguments = parser.parse_args()
    skips = list_skips(arguments.reports)
    for name, reason in sorted(skips.items()):
        print(f"{name}: {reason}")
    print(f"{len(skips)} skipped in the end, {arguments.at_most} allowed")
    return int(len(skips) > arguments.at_most)


if __name__ == "__main__":
    sys.exit(main())
