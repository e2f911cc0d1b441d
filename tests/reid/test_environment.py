"""Where a run was computed: the commit is the project's own, the backend the one that computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest
import torch

import bdam_kernels
from bdam_kernels import dispatch
from bdam_reid.config import EngineConfig
from bdam_reid.engine import environment
from bdam_reid.engine.environment import make_accelerator


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_of_copy(package: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(environment, "__file__", str(package / "engine" / "environment.py"))
    return environment._commit()


def copy(root: Path) -> Path:
    """Folder of a package with this module in it."""
    target = root / "bdam_reid" / "engine" / "environment.py"
    target.parent.mkdir(parents=True)
    shutil.copy(environment.__file__, target)
    return root / "bdam_reid"


def test_the_commit_is_that_of_the_projects_own_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    own = copy(tmp_path)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert commit_of_copy(own, monkeypatch) == git(tmp_path, "rev-parse", "HEAD")
    (own / "engine" / "environment.py").write_text("changed")
    assert commit_of_copy(own, monkeypatch) == git(tmp_path, "rev-parse", "HEAD") + "+"


def test_a_repository_around_an_installed_package_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment in somebody's repository, a copy that is tracked there, no repository at all."""
    installed = copy(tmp_path / "alone")
    assert commit_of_copy(installed, monkeypatch) == ""
    git(tmp_path, "init", "-q")
    vendored = copy(tmp_path / "vendored")
    git(tmp_path, "add", "vendored")
    git(tmp_path, "commit", "-qm", "one")
    assert commit_of_copy(installed, monkeypatch) == ""
    assert commit_of_copy(vendored, monkeypatch) == ""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(installed.parent))
    assert commit_of_copy(installed, monkeypatch) == ""


def test_the_version_is_that_of_the_package_that_computes() -> None:
    packages = environment.environment(torch.device("cpu"))["packages"]
    assert packages["bdam-kernels"] == bdam_kernels.__version__


@pytest.mark.skipif(bool(os.environ.get("BDAM_BACKEND")), reason="BDAM_BACKEND forces a backend")
@pytest.mark.skipif(bool(dispatch.backends()["cpu"]), reason=dispatch.backends()["cpu"])
def test_the_backend_of_a_cpu_is_its_kernels() -> None:
    assert environment.chosen_backend(torch.device("cpu")) == "cpu"


def test_runs_of_different_precision_are_trained_in_one_process() -> None:
    precisions: tuple[Literal["no", "bf16"], ...] = ("no", "bf16", "no")
    made = [make_accelerator(EngineConfig(mixed_precision=name)).mixed_precision for name in precisions]
    assert made == list(precisions)
