"""No file offered as weights or as a bundle runs code, reaches the network or raises anything but our errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One process under the audit hook opens all of them: hooks cannot be removed from this one."""
    out = tmp_path_factory.mktemp("attacks") / "found.json"
    script = Path(__file__).with_name("hostile_models.py")
    done = subprocess.run([sys.executable, script, out], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(out.read_text())


def test_the_hook_sees_what_a_payload_does(found):
    assert found["canary"] >= 4  # a shell, two lines of Python, a socket


def test_nothing_is_executed_and_no_socket_is_opened(found):
    assert [name for name, result in found["results"].items() if "AND RAN" in result] == []
    assert len(found["results"]) > 110


def test_every_hostile_file_is_refused_by_a_named_error(found):
    accepted = {name for name, result in found["results"].items() if not result.startswith("refused: ")}
    assert accepted == {name for name in found["results"] if name.startswith("good.")} != set()


def test_no_message_advises_to_switch_safety_off(found):
    assert not [name for name, result in found["results"].items() if "weights_only" in result]


def test_refusing_is_quick(found):
    assert found["slowest"] < 5
