"""Compiles the fused CPU execution: `python runtime/csrc/build.py OUTPUT.so`.

g++ 11 or newer, nothing else. Only the standard library here: hatch_build.py runs it for the wheel,
the Makefile for a checkout, tests for the builds with sanitizers.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent

FLAGS = [
    "-std=c++20",
    "-O3",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",  # a panel's words are read as pairs and as quads
    "-ffp-contract=off",  # products are fused where the source says so, or results would differ
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-psabi",
    # The headers of GCC 12 pass undefined vectors on purpose.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]

# Of the files that hold kernels, by the end of their names; all others run on any x86-64.
INSTRUCTIONS = {
    "_avx2.cpp": ["-mavx2", "-mfma"],
    "_avx512.cpp": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512bf16",
        "-mavx512vnni",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
}


class BuildError(Exception):
    """There is no compiler, or it failed; the message says which."""


def supported() -> bool:
    """Whether this machine can build and run it: Linux on x86-64 with a C++ compiler."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and _compiler() is not None


def build(
    output: Path,
    *,
    shared: bool = True,
    extra_sources: Sequence[Path] = (),
    extra_flags: Sequence[str] = (),
) -> None:
    """Compile everything into a shared library or, with a main() among the extra sources, a
    program.
    """
    compiler = _compiler()
    if compiler is None:
        raise BuildError("no C++ compiler: install g++, or set CXX")
    sources = [*sorted(SOURCES.glob("*.cpp")), *extra_sources]
    # The link keeps the first copy of an inline function that several files have: that of a file
    # compiled for any machine.
    sources.sort(key=lambda source: bool(_instructions(source)))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [
            [
                *[*compiler, *FLAGS, *_instructions(source), *extra_flags],
                *[f"-I{SOURCES}", "-c", str(source), "-o", str(object_)],
            ]
            for source, object_ in zip(sources, objects, strict=True)
        ]
        list(pool.map(_run, commands))
        output.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved: a process that has the old library open keeps it.
        temporary = output.with_name(f".{output.name}.{os.getpid()}")
        # With its C++ library inside: the machine that runs it may have an older one, or none.
        kind = ["-shared", "-static-libstdc++", "-static-libgcc"] if shared else []
        _run([*compiler, *kind, "-pthread", *extra_flags, *map(str, objects), "-o", str(temporary)])
        temporary.replace(output)


def _instructions(source: Path) -> list[str]:
    return [
        flag for end, flags in INSTRUCTIONS.items() if source.name.endswith(end) for flag in flags
    ]


def _compiler() -> list[str] | None:
    command = shlex.split(os.environ.get("CXX", "g++"))
    return command if command and shutil.which(command[0]) else None


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}")


def main() -> int:
    """Entry point of the command line: 1, and the compiler's words, if it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--if-possible", action="store_true", help="without a compiler, say so and succeed"
    )
    arguments = parser.parse_args()
    if arguments.if_possible and not supported():
        print("no C++ compiler: the runtime will execute models in torch", file=sys.stderr)
        return 0
    try:
        build(arguments.output)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
