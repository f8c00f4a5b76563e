"""Hands this machine's way to a package index to a build, as secrets that no layer keeps."""

import configparser
from collections.abc import Mapping
from pathlib import Path

# Where the Dockerfile mounts the secret `ca_bundle`.
CA_IN_BUILD = "/run/secrets/ca_bundle"

_FILES = (Path("/etc/pip.conf"), Path("~/.pip/pip.conf"), Path("~/.config/pip/pip.conf"))
_CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


def pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's global options as pip itself would see them: files first, then the environment."""
    parser = configparser.RawConfigParser()
    files = [path.expanduser() for path in _FILES]
    if explicit := environ.get("PIP_CONFIG_FILE"):
        files.append(Path(explicit))
    parser.read(files, encoding="utf-8")
    options: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            options.update(parser.items(section))
    for variable, value in environ.items():
        if variable.startswith("PIP_") and variable != "PIP_CONFIG_FILE" and value:
            options[variable.removeprefix("PIP_").lower().replace("_", "-")] = value
    return options


def wheel_folders(options: Mapping[str, str]) -> list[Path]:
    """Local folders among `find-links` that hold something: the build has to see them."""
    paths = (Path(word) for word in options.get("find-links", "").split() if "://" not in word)
    return [path for path in paths if path.is_dir() and any(path.iterdir())]


def write_secrets(directory: Path, environ: Mapping[str, str]) -> dict[str, Path]:
    """Writes the secrets below `directory` and returns id → file, as `--secret` wants them."""
    options = pip_options(environ)
    bundles = [options.get("cert"), *(environ.get(name) for name in _CA_VARIABLES)]
    bundle = next((Path(b) for b in bundles if b and Path(b).is_file()), None)
    secrets: dict[str, Path] = {}
    if bundle is not None:
        secrets["ca_bundle"] = bundle
        options["cert"] = CA_IN_BUILD
    if options:
        conf = directory / "pip.conf"
        lines = ["[global]"]
        # A value of several lines (find-links, extra-index-url) goes on in indented ones.
        lines += [
            f"{name} = {value.strip()}".replace("\n", "\n  ") for name, value in options.items()
        ]
        conf.touch(mode=0o600)
        conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
        secrets["pip_conf"] = conf
    return secrets
