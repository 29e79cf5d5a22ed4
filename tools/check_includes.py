#!/usr/bin/env python3
"""check_includes.py - holds the sources to the order of the rooms.

A room under src/ may include its own headers, the public header, and the face room/room.h of the rooms that
KNOWS lists for it. Headers that end in _internal.h stay in their room. Instruction set headers stay under
kernel/<arch>/ and in the CPU detection, socket headers in server/, MPI in cluster/. No header includes itself,
however indirectly."""
import re
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"

KNOWS = {
    "base": [],
    "number": ["base"],
    "kernel": ["base", "number"],
    "device": ["base", "number", "kernel"],
    "checkpoint": ["base", "number"],
    "text": ["base"],
    "image": ["base"],
    "cache": ["base"],
    "model": ["base", "number", "kernel", "device", "checkpoint", "cache", "text"],
    "train": ["base", "number", "kernel", "device", "checkpoint", "cache", "text", "model"],
    "engine": ["base", "number", "kernel", "device", "checkpoint", "cache", "text", "model"],
    "cluster": ["base", "number", "kernel", "device", "checkpoint", "cache", "model", "engine"],
    "server": ["base", "number", "text", "engine"],
    "cli": ["base", "number", "kernel", "device", "checkpoint", "cache", "text", "model", "engine", "train", "server",
            "cluster"],
}

# what a system header is matched by, and where it may stand
RESERVED = [
    (re.compile(r"(\w*mmintrin|x86intrin|cpuid|arm_\w+)\.h$"), re.compile(r"^kernel/(\w+/|(cpu|detect)\w*\.c$)")),
    (re.compile(r"^(sys/socket|sys/un|netinet/\w+|arpa/inet|netdb)\.h$"), re.compile(r"^server/")),
    (re.compile(r"^mpi\.h$"), re.compile(r"^cluster/")),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def target_of(path, name):
    """The header under src/ that `name` means in the file `path`, as a path relative to src/; None if it is
    the public header; the string itself if nothing is there."""
    beside = (path.parent / name).resolve()
    if beside.is_file() and SRC in beside.parents:
        return beside.relative_to(SRC).as_posix()
    if (SRC / name).is_file():
        return name
    return None if name == "sonde.h" else name


def check_quoted(path, name, say):
    room, target = path.relative_to(SRC).parts[0], target_of(path, name)
    if target is None:
        return None
    if not (SRC / target).is_file():
        say(f'includes "{name}", which is not there')
        return None
    other = target.split("/")[0]
    if other == room:
        return target
    if other not in KNOWS[room]:
        say(f'{room}/ may not know {other}/, but it includes "{name}"')
    elif target != f"{other}/{other}.h":
        say(f'includes "{name}"; the face of that room is {other}/{other}.h')
    return target


def find_cycle(graph):
    done = set()

    def visit(node, trail):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        for following in graph.get(node, []):
            cycle = visit(following, trail + [node])
            if cycle:
                return cycle
        done.add(node)
        return None

    for node in graph:
        cycle = visit(node, [])
        if cycle:
            return cycle
    return None


def main():
    problems, graph = [], {}
    for path in sorted(SRC.rglob("*.[ch]")):
        short = path.relative_to(SRC).as_posix()
        room = short.split("/")[0]
        if room not in KNOWS:
            problems.append(f"src/{short}: {room}/ is not among the rooms of this script")
            continue
        for kind, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if kind == '"':
                target = check_quoted(path, name, lambda text: problems.append(f"src/{short}: {text}"))
                if target:
                    graph.setdefault(short, []).append(target)
                continue
            for header, place in RESERVED:
                if header.search(name) and not place.search(short):
                    problems.append(f"src/{short}: <{name}> may not be included here")
    cycle = find_cycle(graph)
    if cycle:
        problems.append("a header includes itself: " + " -> ".join(cycle))
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    sys.exit(1 if problems else 0)


main()
