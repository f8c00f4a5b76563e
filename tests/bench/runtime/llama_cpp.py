"""llama.cpp's tools as Debian sid builds them, beside the machine's own packages, not among them.

apt works on a state folder of its own that knows no installed package: so it fetches every library
down to the C library, and nothing of the machine is touched. The tools run on that C library.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.build import cache_folder
from dev.once import made_once
from dev.packages import PackagesError, require

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def root() -> Path:
    """The folder in which the packages are unpacked, made first if it is missing.

    Raises:
        PackagesError: this machine has no source of Debian packages.
        subprocess.CalledProcessError: apt could not fetch them.
    """
    return made_once(cache_folder() / "debian" / "llama.cpp", _unpack)


def version() -> str:
    """The version of Debian's package."""
    package = next((root() / "packages").glob("llama.cpp-tools_*.deb"))
    return package.name.split("_")[1].replace("%3a", ":")


def run_on_its_libraries(tool: str, *arguments: str) -> tuple[list[str], Path]:
    """A command line and the folder to start it in.

    The compiled-in path of the kernels (one library per CPU generation, the best one is taken) does
    not exist here; the next place where they are looked for is the working folder.
    """
    libraries = root() / LIBRARIES
    loader = [str(root() / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path"]
    command = [*loader, f"{libraries}:{libraries / 'llama'}", str(root() / "usr/bin" / tool)]
    return [*command, *arguments], next((libraries / "ggml").glob("backends*"))


def bench(model: Path, threads: int, *arguments: str) -> list[float]:
    """Tokens per second of each test that `llama-bench` was asked for, its own mean."""
    flags = ["--model", str(model), "--threads", str(threads), "--output", "json", *arguments]
    command, folder = run_on_its_libraries("llama-bench", *flags)
    done = subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return [float(test["avg_ts"]) for test in json.loads(done.stdout)]


def use_gguf() -> None:
    """Let this process import `gguf`, llama.cpp's own writer of its files, of the same version."""
    sys.path.append(str(root() / "usr/lib/python3/dist-packages"))


def _unpack(folder: Path) -> None:
    require({"apt": ["apt-get"], "dpkg": ["dpkg-deb"]})
    print("fetching llama.cpp from Debian sid (20 MB)", file=sys.stderr, flush=True)
    options = _private_apt(folder / "apt")
    packages = folder / "packages"
    packages.mkdir()
    _apt(options, "update")
    fetch = ["--download-only", "--no-install-recommends", "--yes"]
    _apt(options, "install", *fetch, "llama.cpp-tools")
    # Alone: what it depends on (numpy, PyYAML) is in this project's environment, in its Python.
    _apt(options, "download", "python3-gguf", folder=packages)
    for package in (folder / "apt" / "cache" / "archives").glob("*.deb"):
        package.rename(packages / package.name)
    shutil.rmtree(folder / "apt")
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)


def _private_apt(folder: Path) -> list[str]:
    """Options for an apt that knows sid only, from the mirror that this machine uses."""
    for needed in ("state/lists/partial", "cache/archives/partial"):
        (folder / needed).mkdir(parents=True)
    (folder / "installed").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = folder / "debian.sources"
    lines = ["Types: deb", f"URIs: {_mirror()}", "Suites: sid", "Components: main"]
    sources.write_text("\n".join([*lines, f"Signed-By: {keys}", ""]))
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "installed",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Acquire::Check-Valid-Until": "false",  # a mirror may be a snapshot
        "APT::Sandbox::User": "root",  # its user may not read this folder
    }
    return [f"--option={name}={value}" for name, value in settings.items()]


def _mirror() -> str:
    """The address from which this machine gets Debian's main archive."""
    form = "$(LABEL) $(COMPONENT) $(REPO_URI)"
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    for line in listing.splitlines():
        label, component, address = line.split(" ", 2)
        if (label, component) == ("Debian", "main"):
            return address
    raise PackagesError("apt has no source of Debian's main archive; add one and `apt-get update`")


def _apt(options: Sequence[str], *command: str, folder: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        ["apt-get", "--quiet", *options, *command],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
