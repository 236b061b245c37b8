"""What the two sides say to each other arrives as it was said, and what is not understood is refused."""

import dataclasses
import json
from typing import Any, get_args

import pytest

from farkernel.launcher import protocol
from farkernel.launcher.protocol import (
    EndLauncher,
    Failed,
    HookFailed,
    KernelEnded,
    KernelLog,
    KernelReady,
    KernelRefused,
    KernelStarted,
    OutputDropped,
    ProtocolError,
    Setup,
    SignalKernel,
    Started,
    StartKernel,
    TimeLeft,
    Usage,
    Walltime,
)

START = StartKernel(
    kernel=1,
    generation=2,
    argv=["python3", "-f", "{connection_file}"],
    env={"NAME": 'a "value"\nof two lines, ünïcode and \udcff'},
    cwd=["/a", "/b"],
    transport="ipc",
    key="key",
    signature_scheme="hmac-sha256",
    kernel_name="python3",
    files={"environment": "NAME=value\n"},
    cleanup=["rm", "{kernel_directory}"],
)
ORDERS = [START, SignalKernel(1, 2), EndLauncher(), Walltime(1e9, ["save"])]
EVENTS = [
    KernelStarted(1, 2, 3, "/cwd"),
    KernelReady(1, 2),
    KernelRefused(1, 2, 2, "/no/such", "No such file or directory"),
    KernelEnded(1, 2, -9, True, "last words\n"),
    KernelLog(1, 2, "text\n"),
    OutputDropped(1, 2, 3),
    TimeLeft(1, 2, 60.0),
    HookFailed(1, 2, "it has no space"),
    Usage(1, 2, 2**40, 3.5),
]
ANSWERS = [Started("node", ["node", "10.0.0.1"], 4242, "key", "123", 99), Failed("why")]
SETUP = Setup("key", "eth0", [20000, 20100], ["10.0.0.2"], 4343, 10.0, "/tmp", 60.0)


def _name(message: object) -> str:
    return type(message).__name__


def test_no_message_is_forgotten_here() -> None:
    assert {type(order) for order in ORDERS} == set(get_args(protocol.Order))
    assert {type(event) for event in EVENTS} == set(get_args(protocol.Event))


@pytest.mark.parametrize("message", [*ORDERS, *EVENTS, *ANSWERS, SETUP], ids=_name)
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    line = protocol.encode(message)

    assert b"\n" not in line
    assert protocol.decode(line, type(message)) == message
    assert protocol.decode(line.decode(), type(message)) == message


def test_each_kind_has_its_decoder() -> None:
    assert [protocol.decode_order(protocol.encode(order)) for order in ORDERS] == ORDERS
    assert [protocol.decode_event(protocol.encode(event)) for event in EVENTS] == EVENTS
    assert [protocol.decode_answer(protocol.encode(answer)) for answer in ANSWERS] == ANSWERS


def test_one_kind_is_not_taken_for_another() -> None:
    with pytest.raises(ProtocolError, match="KernelReady is not expected"):
        protocol.decode_order(protocol.encode(KernelReady(1, 1)))
    with pytest.raises(ProtocolError, match="EndLauncher is not expected"):
        protocol.decode_event(protocol.encode(EndLauncher()))
    with pytest.raises(ProtocolError, match="Setup is not expected"):
        protocol.decode_answer(protocol.encode(SETUP))
    with pytest.raises(ProtocolError, match="Failed is not expected"):
        protocol.decode(protocol.encode(Failed("why")), Setup)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\x00",
        "null",
        "7",
        "[]",
        "{}",
        '{"type": "NoSuchMessage"}',
        '{"type": ["Setup"]}',
        '{"type": "KernelReady", "kernel": 1}',
        '{"type": "KernelReady", "kernel": 1, "generation": 1, "more": 1}',
        b"\xff\xfe\xfd",
    ],
)
def test_what_is_no_message_is_refused(line: str | bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message of farkernel's protocol 1"):
        protocol.decode_event(line)


@pytest.mark.parametrize("message", [SETUP, *ANSWERS], ids=_name)
def test_another_version_is_refused(message: Any) -> None:
    fields = json.loads(protocol.encode(message))
    fields["version"] = 2

    with pytest.raises(ProtocolError, match="speaks protocol 2, this one 1"):
        protocol.decode(json.dumps(fields), type(message))


@pytest.mark.parametrize("message", [*ORDERS, *EVENTS, *ANSWERS, SETUP], ids=_name)
def test_a_field_that_is_missing_is_refused(message: Any) -> None:
    for field in dataclasses.fields(message):
        fields = json.loads(protocol.encode(message))
        del fields[field.name]
        if field.name != "version":
            with pytest.raises(ProtocolError, match=field.name):
                protocol.decode(json.dumps(fields), type(message))
