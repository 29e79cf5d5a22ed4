#!/usr/bin/env python3
"""check_source.py - what the formatter does not see: white space, openings, lengths, undocumented functions.

Errors: trailing white space, tabs in C and Python, no newline at the end of a file, CR, a C file that does not
open with a comment, marks of unfinished work, a function of sonde.h without a comment before it or its group.
Warnings, which fail nothing: files over 1000 lines, functions over 100."""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["include", "src", "tests", "examples", "bench", "docs", "tools", ".ci"]
TEXT = {".c", ".h", ".py", ".sh", ".md", ".build", ".txt"}
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")


def files():
    for folder in FOLDERS:
        yield from (p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in TEXT and p.is_file())
    yield from (p for p in sorted(ROOT.iterdir()) if p.is_file() and (p.suffix in TEXT or p.name == "dev"))


def check_text(path, text, say):
    code = path.suffix in {".c", ".h"}
    if text and not text.endswith("\n"):
        say("no newline at the end")
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            say(f"line {number}: white space at the end")
        if "\t" in line and path.suffix in {".c", ".h", ".py"}:
            say(f"line {number}: a tab")
        if code and UNFINISHED.search(line):
            say(f"line {number}: unfinished work")
    if code and not text.startswith("/*"):
        say("does not open with a comment that says what it is")


def check_lengths(text, warn):
    lines = text.split("\n")
    if len(lines) > 1000:
        warn(f"{len(lines)} lines")
    start = None
    for number, line in enumerate(lines, 1):
        if re.match(r"^[a-z].*\) \{$", line):
            start = number
        if line == "}" and start:
            if number - start > 100:
                warn(f"line {start}: a function of {number - start} lines")
            start = None


def check_documented(text, say):
    """A declaration is documented if a comment ends on the line before it, or before the unbroken run of
    declarations it stands in."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("SONDE_API"):
            continue
        above = number - 1
        while above >= 0 and lines[above] and not lines[above].rstrip().endswith("*/"):
            above -= 1
        if above < 0 or not lines[above]:
            say(f"line {number + 1}: no comment: {line}")


def main():
    errors, warnings = [], []
    for path in files():
        short = path.relative_to(ROOT)
        text = path.read_bytes().decode("utf-8", errors="replace")
        check_text(path, text, lambda what: errors.append(f"{short}: {what}"))
        if path.suffix in {".c", ".h"}:
            check_lengths(text, lambda what: warnings.append(f"{short}: {what}"))
        if path.name == "sonde.h":
            check_documented(text, lambda what: errors.append(f"{short}: {what}"))
    for line in warnings:
        print("warning:", line, file=sys.stderr)
    for line in errors:
        print(line, file=sys.stderr)
    sys.exit(1 if errors else 0)


main()
