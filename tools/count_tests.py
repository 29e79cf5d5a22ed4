#!/usr/bin/env python3
"""count_tests.py TESTLOG.json - adds up the single cases of a meson test run.

Meson counts programs; what matters is cases. Every program speaks TAP, so its output in the log is read
again: "ok" and "not ok" lines, with "# SKIP" in either form (cmocka writes "not ok 3 # SKIP"). A program that
ended badly without a failed case of its own, or before all planned cases, counts as one failure more. Output
of what failed is printed; the last line is "N passed, N failed, N skipped". Exits 1 if a case failed or
nothing passed."""
import json
import re
import sys

CASE = re.compile(r"^(not )?ok\b([^#]*)(?:#\s*(\w+))?")
PLAN = re.compile(r"^1\.\.(\d+)")


def count(test):
    passed = failed = skipped = 0
    planned = None
    for line in test.get("stdout", "").splitlines():
        plan, case = PLAN.match(line), CASE.match(line)
        if plan:
            planned = int(plan.group(1))
        if not case:
            continue
        directive = (case.group(3) or "").upper()
        if directive.startswith("SKIP"):
            skipped += 1
        elif case.group(1):
            failed += 1
        else:
            passed += 1
    all_run = planned is None or passed + failed + skipped >= planned
    if not failed and (test.get("returncode") != 0 or not all_run or planned is None):
        failed = 1
    return passed, failed, skipped


def main():
    totals = [0, 0, 0]
    try:
        with open(sys.argv[1], encoding="utf-8") as log:
            tests = [json.loads(line) for line in log]
    except OSError:
        tests = []
    for test in tests:
        counts = count(test)
        totals = [a + b for a, b in zip(totals, counts)]
        name = test["name"].split(" / ")[-1]
        print(f"{'FAILED' if counts[1] else 'ok':7} {name}: {counts[0]} passed, {counts[1]} failed, "
              f"{counts[2]} skipped ({test['duration']:.1f} s)")
        if counts[1]:
            print(test.get("stdout", ""), test.get("stderr", ""), sep="")
            print(f"        ended with status {test.get('returncode')}, {test.get('result')}")
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    sys.exit(1 if totals[1] or not totals[0] else 0)


main()
