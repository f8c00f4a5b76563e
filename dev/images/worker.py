"""Builds one image; `build.py` runs it as `python -m dev.images.worker` in its own namespaces.

Arguments: target, context folder, image name, archive to write. Mounts need no undoing here.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dev.images import pip_settings, spec
from dev.images.build import images_folder

# Each build adds some twenty small images of intermediate steps, which are the layer cache.
MAX_CACHED_IMAGES = 600


class Store:
    """buildah with a layer store of its own: the machine's other images are left alone."""

    def __init__(self, folder: Path) -> None:
        driver = "overlay" if _can_overlay(folder) else "vfs"
        run = tempfile.mkdtemp(prefix="buildah-run-")
        self._command = ["buildah", "--root", str(folder / driver), "--runroot", run]
        self._command += ["--storage-driver", driver]

    def run(self, *arguments: str) -> None:
        """Runs one buildah command, its output going to the log."""
        print("+ buildah", *arguments, flush=True)
        started = time.monotonic()
        # chroot: no runc and no cgroups needed, and steps use the machine's network as it is.
        environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        subprocess.run([*self._command, *arguments], env=environment, check=True)
        print(f"  {time.monotonic() - started:.1f} s", flush=True)

    def output(self, *arguments: str) -> str:
        """Runs one buildah command and returns what it prints."""
        command = [*self._command, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def names(self) -> dict[str, list[str]]:
        """Image id → its names, of all images."""
        listed = json.loads(self.output("images", "--all", "--json", "--no-trunc"))
        return {image["id"]: image.get("names") or [] for image in listed}


def main() -> None:
    """Entry point; see the module's docstring."""
    name, context, reference, archive = sys.argv[1:]
    target = spec.TARGETS[name]
    store = Store(images_folder() / "layers")
    store.run("rm", "--all")  # working containers of builds that failed or were killed
    there = {name for names in store.names().values() for name in names}
    missing = [base for base in target.bases.values() if base.tag not in there]
    if missing or len(store.names()) > MAX_CACHED_IMAGES:
        _drop_old_layers(store)
    for base in missing:
        _make_base(store, base)
    # A short name would be looked up as localhost/…, which the kubelet does not ask for.
    full_name = f"docker.io/library/{reference}"
    store.run("bud", *_build_options(target), "--tag", full_name, context)
    store.run("push", "--quiet", full_name, f"docker-archive:{archive}:{full_name}")


def _build_options(target: spec.Target) -> list[str]:
    options = ["--layers", "--force-rm", "--pull-never", "--target", target.name]
    for argument, value in target.build_arguments().items():
        options += ["--build-arg", f"{argument}={value}"]
    temporary = Path(tempfile.mkdtemp(prefix="secrets-"))
    for secret, file in pip_settings.write_secrets(temporary, os.environ).items():
        options += ["--secret", f"id={secret},src={file}"]
    for folder in pip_settings.wheel_folders(pip_settings.pip_options(os.environ)):
        options += ["--volume", f"{folder}:{folder}:ro"]
    return options


def _make_base(store: Store, base: spec.Base) -> None:
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        tar = Path(folder) / "base.tar"
        _debootstrap(base, tar)
        container = store.output("from", "scratch").strip()
        store.run("add", "--quiet", container, str(tar), "/")
        store.run("commit", "--quiet", "--disable-compression", "--rm", container, base.tag)


def _debootstrap(base: spec.Base, tar: Path) -> None:
    command = ["mmdebstrap", "--mode=root", "--format=tar", *base.options(), base.suite, str(tar)]
    print("+", *command, flush=True)
    subprocess.run(command, check=True)


def _drop_old_layers(store: Store) -> None:
    """Removes all but the bases in use: the next build of each image has no cached layers.

    Keeps the store from growing for ever. A new base is a good moment: most layers are on the old.
    """
    bases = {base.tag for target in spec.TARGETS.values() for base in target.bases.values()}
    old = [image for image, tags in store.names().items() if not bases.intersection(tags)]
    if old:
        store.run("rmi", "--force", *old)


def _can_overlay(folder: Path) -> bool:
    """Whether overlay mounts work on this file system: not on top of another overlay."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".overlay-") as probe:
        lower, upper, work, merged = (Path(probe) / n for n in ("lower", "upper", "work", "merged"))
        for part in (lower, upper, work, merged):
            part.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
        works = subprocess.run(mount, capture_output=True).returncode == 0
        if works:
            subprocess.run(["umount", str(merged)], check=True)
        return works


if __name__ == "__main__":
    main()
