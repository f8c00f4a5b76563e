"""What each image is made from, and the hashes that name the results."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Raised by hand when bases have to be made anew from the same list, for security updates say.
BASE_VERSION = 1

DEBIAN_SUITE = "trixie"

# Left out of every base: nothing in a container reads them.
_NOT_INSTALLED = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)

# mmdebstrap copies these from the machine that it runs on; container runtimes bring their own.
_OF_THIS_MACHINE = ("/etc/resolv.conf", "/etc/hostname")


@dataclass(frozen=True)
class Base:
    """A Debian root file system that mmdebstrap makes; the `FROM` of an image.

    `delete` holds glob patterns of what is removed at the end. It cannot be left out while
    packages are installed: Debian's byte compilation fails on a missing file.
    """

    name: str
    packages: tuple[str, ...]
    delete: tuple[str, ...] = ()
    suite: str = DEBIAN_SUITE

    def options(self) -> list[str]:
        """The recipe as options of mmdebstrap."""
        # essential: the packages marked so and what was asked for, without apt.
        options = ["--variant=essential", f"--include={','.join(self.packages)}"]
        # dpkg lets the last match decide, so the copyright files stay.
        options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_INSTALLED]
        options += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
        # $1 is the root of the new system; the shell expands the patterns.
        paths = " ".join(f'"$1"{pattern}' for pattern in (*_OF_THIS_MACHINE, *self.delete))
        return [*options, f"--customize-hook=rm -r {paths}"]

    @property
    def key(self) -> str:
        """Twelve hex digits that change with the recipe and with nothing else."""
        recipe = (str(BASE_VERSION), self.suite, *self.options())
        return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:12]

    @property
    def tag(self) -> str:
        """Name of the base in the local image store."""
        return f"localhost/pagoda-base-{self.name}:{self.key}"


@dataclass(frozen=True)
class Target:
    """One target of the Dockerfile: its bases, its build arguments and the files it is built from.

    `bases` are the `FROM`s of its stages, by build argument. `sources` are paths below the root of
    the repository; of a folder, every file counts.
    """

    name: str
    repository: str
    bases: dict[str, Base]
    sources: tuple[str, ...]
    arguments: dict[str, str] = field(default_factory=dict)

    def build_arguments(self) -> dict[str, str]:
        """All `--build-arg`s, the base images among them."""
        return {**{name: base.tag for name, base in self.bases.items()}, **self.arguments}


_COMMON_SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "requirements/build.txt",
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
)

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="operator",
            repository="pagoda",
            bases={"PYTHON_IMAGE": Base("python", ("python3", "python3-venv", "ca-certificates"))},
            sources=(*_COMMON_SOURCES, "requirements/operator.txt", "operator"),
        ),
        Target(
            name="runtime",
            repository="pagoda-runtime",
            bases={
                "COMPILER_IMAGE": Base("compiler", ("python3", "g++")),
                # Debian's torch is built for CPUs: a quarter of the size of PyPI's CUDA build.
                "RUNTIME_IMAGE": Base(
                    "torch",
                    (
                        "python3",
                        "python3-venv",
                        "python3-torch",
                        # Twenty times the speed of the reference BLAS that torch would be given.
                        "libopenblas0-openmp",
                        "ca-certificates",
                    ),
                    delete=(
                        "/usr/lib/libtorch-test",
                        "/usr/lib/python3/dist-packages/torch/bin/test_*",
                        "/usr/lib/python3/dist-packages/fsspec/implementations/tests",
                        "/usr/lib/python3/dist-packages/networkx/*/tests",
                        "/usr/lib/python3/dist-packages/sympy/*/tests",
                    ),
                ),
            },
            sources=(*_COMMON_SOURCES, "requirements/runtime-libs.txt", "runtime"),
            arguments={
                "RUNTIME_LOCK": "runtime-libs.txt",
                "VENV_OPTIONS": "--system-site-packages",
            },
        ),
    )
}


def content_key(target: Target, root: Path = ROOT) -> str:
    """Twelve hex digits over everything that goes into the image."""
    bases = " ".join(base.key for base in target.bases.values())
    digest = hashlib.sha256(f"{bases} {sorted(target.arguments.items())}".encode())
    for path in _files(root, target.sources):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        executable = os.access(path, os.X_OK)
        digest.update(f"\n{path.relative_to(root)} {executable} {content}".encode())
    return digest.hexdigest()[:12]


def snapshot(target: Target, into: Path, root: Path = ROOT) -> None:
    """Copies the sources, so that a build and its name agree whatever is edited meanwhile."""
    for path in _files(root, target.sources):
        copy = into / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def _files(root: Path, sources: tuple[str, ...]) -> Iterator[Path]:
    for source in sources:
        path = root / source
        if path.is_file():
            yield path
        else:
            yield from sorted(p for p in path.rglob("*") if p.is_file() and _is_source(p))


def _is_source(path: Path) -> bool:
    """The rule of .dockerignore: what Python, pip and compilers leave behind is no source."""
    left_behind = (".egg-info", ".so")
    return not any(part == "__pycache__" or part.endswith(left_behind) for part in path.parts)
