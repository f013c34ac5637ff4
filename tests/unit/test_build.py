"""The composition root: rules can be imported from several threads at once, and each names a function that is there."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from amybuild.perform import host

CODE = """
import threading
from amybuild.perform import rule_function
from amybuild.graph.rules import RULES
start, failed = threading.Barrier(len(RULES)), []

def load(rule):
    start.wait()
    try:
        assert callable(rule_function(rule))
    except Exception as error:
        failed.append((rule, error))

threads = [threading.Thread(target=load, args=[rule]) for rule in RULES]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failed, failed
"""


def test_all_rules_import_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_library_that_another_thread_still_imports_is_no_part_of_an_action_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # what is there while it runs its first line
    assert "torch" not in host("corpus")
