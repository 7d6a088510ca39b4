"""The image in which the commands of targets run that name none: Python and Node.js, with what servers here import."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import docker.errors
from docker import DockerClient

import harness
from harness.errors import HarnessError, brief

DOCKERFILE = Path(harness.__file__).parent / "targets" / "reference" / "Dockerfile"


def build(client: DockerClient, name: str) -> Any:
    """Build it, which takes a minute, and the network for its base.

    Raises:
        HarnessError: it cannot be built; the text has the last of what was printed, and what helps.
    """
    with tempfile.TemporaryDirectory(prefix="midemit-") as folder:
        context(Path(folder))
        try:
            image, _ = client.images.build(path=folder, tag=name, rm=True, forcerm=True)
        except docker.errors.BuildError as error:
            printed = "".join(str(line.get("stream", "")) for line in error.build_log)
            raise HarnessError(_why_not(name, f"{error}\n{brief(printed[-400:])}")) from error
        except docker.errors.APIError as error:
            raise HarnessError(_why_not(name, str(error.explanation or error))) from error
    return image


def context(folder: Path) -> None:
    """Put what it is built from into a folder."""
    shutil.copyfile(DOCKERFILE, folder / "Dockerfile")
    shutil.copytree(Path(harness.__file__).parent, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))


def _why_not(name: str, error: str) -> str:
    return (
        f"the image {name} is not on this machine, and cannot be built from {DOCKERFILE}: {brief(error)}. Building it "
        "takes docker.io and pypi.org; or name one with Python 3.11 or newer and these packages: --image-server"
    )
