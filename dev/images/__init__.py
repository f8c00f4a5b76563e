"""Builds the project's container images on a bare Debian machine, without a container registry.

`build("operator")` returns the path of an image archive that containerd imports, `reference()` the
name under which it is imported. Both are functions of the content: unchanged sources give the same
name and the cached file, so `imagePullPolicy: IfNotPresent` is always right.
"""

from dev.images.build import Image, ImageError, build, make, reference
from dev.images.spec import TARGETS

__all__ = ["TARGETS", "Image", "ImageError", "build", "make", "reference"]
