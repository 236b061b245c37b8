"""What a kernel.json of farkernel's holds as a whole: read, and described by a JSON Schema."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.json_places import Document, NotJson, Place, place_at, read_json
from farkernel.provisioners.request import request_schema

PROVISIONER_PREFIX = "farkernel-"
LARGEST = 2**20
"""Bytes of a kernel.json: it has some kilobytes."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)  # others may read keys of their own


class KernelProvisioner(_Part):
    """What starts the kernel in a Jupyter server, console or notebook runner."""

    model_config = ConfigDict(extra="forbid", strict=True)

    provisioner_name: Literal["farkernel-slurm", "farkernel-local"] = Field(
        description="farkernel-slurm runs it in a job of Slurm, farkernel-local on this machine."
    )
    config: dict[str, Any] = Field(default={}, description="What is asked of farkernel.")


class ProcessProxy(_Part):
    """What starts the kernel in Enterprise Gateway."""

    class_name: Literal[
        "farkernel.provisioners.enterprise_gateway.SlurmProcessProxy",
        "farkernel.provisioners.enterprise_gateway.LocalProcessProxy",
    ] = Field(description="SlurmProcessProxy beside farkernel-slurm, LocalProcessProxy beside farkernel-local.")
    config: dict[str, Any] = Field(
        default={}, description="Enterprise Gateway's own authorized_users and unauthorized_users."
    )


class Metadata(_Part):
    """What programs around the kernel read."""

    kernel_provisioner: KernelProvisioner
    process_proxy: ProcessProxy | None = Field(default=None, description="What Enterprise Gateway takes instead.")
    debugger: bool = Field(default=False, description="Whether JupyterLab offers its debugger.")


class KernelJson(_Part):
    """A kernelspec that farkernel starts."""

    argv: list[str] = Field(
        min_length=1,
        description="The kernel's command on the node, or in the image; {connection_file} stands for the file that it"
        " reads.",
        examples=[["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]],
    )
    display_name: str = Field(min_length=1, description="What JupyterLab's launcher shows.")
    language: str = Field(description="The language of the kernel.")
    interrupt_mode: Literal["signal", "message"] = Field(
        default="signal", description="How the kernel is interrupted: by SIGINT, or by a message."
    )
    env: dict[str, str] = Field(
        default={}, description="Environment variables of the kernel.", examples=[{"OMP_NUM_THREADS": "68"}]
    )
    metadata: Metadata


NOWHERE = Place(0, 0)
"""The file as a whole."""


def read_document(path: Path) -> Document:
    """Read a kernel.json, or another JSON file of that size, with the place of each key.

    :raises NotJson: it cannot be read (`NOWHERE`), or is no JSON
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotJson(NOWHERE, "there is no such file", "Correct the path, or the name of the kernelspec.") from None
    except OSError as error:
        advice = "See that it is a file that you, and who starts kernels, may read."
        raise NotJson(NOWHERE, f"it cannot be read: {error.strerror}", advice) from error
    if len(data) > LARGEST:
        raise NotJson(NOWHERE, f"it is larger than {LARGEST} bytes: no kernelspec", "Correct the path.")
    try:
        return read_json(data.decode())
    except UnicodeDecodeError as error:
        place = place_at(data[: error.start].decode(), error.start)
        raise NotJson(place, "not UTF-8", "Save it as UTF-8.") from error


def read_spec(path: Path) -> dict[str, Any]:
    """Read a kernel.json; what it says is not looked at.

    :raises RequestError: it cannot be read, or is no JSON object: where, by line and column
    """
    try:
        spec = read_document(path).value
    except NotJson as error:
        where = f"{path}:{error.place.line}:{error.place.column}: not JSON" if error.place.line else f"{path}"
        raise RequestError(f"{where}: {error.what}", hint=error.advice) from error
    if not isinstance(spec, dict):
        raise RequestError(f"{path}: expected an object, not {json.dumps(spec)[:80]}")
    return spec


def kernelspec_schema() -> dict[str, Any]:
    """JSON Schema of a whole kernel.json, for editors that complete and check it."""
    schema = KernelJson.model_json_schema()
    request = request_schema()
    schema["$defs"] |= request.pop("$defs")
    dialect = request.pop("$schema")
    schema["$defs"]["Request"] = request
    config = schema["$defs"]["KernelProvisioner"]["properties"]["config"]
    schema["$defs"]["KernelProvisioner"]["properties"]["config"] = {
        "$ref": "#/$defs/Request",
        "default": {},
        "description": config["description"],
    }
    return {"$schema": dialect} | schema
