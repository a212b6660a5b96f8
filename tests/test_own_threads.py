"""The team compiled by itself: without OpenMP, where it has threads of its own, and with it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = ("cpus", "system_files", "team", "threads")
SOURCES = [*(ROOT / f"csrc/runtime/{name}.cpp" for name in RUNTIME), ROOT / "tests/csrc/test_team.cpp"]
FLAGS = ["-std=c++17", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{ROOT / 'csrc'}"]


# The sanitizer knows neither a fork of several threads nor what GCC's OpenMP waits on.
@pytest.mark.parametrize(
    ("flags", "arguments"),
    [([], ["fork"]), (["-fopenmp"], ["fork"]), (["-fsanitize=thread"], [])],
    ids=["own threads", "OpenMP", "own threads sanitized"],
)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_every_place_is_met_once(flags, arguments, tmp_path):
    program = tmp_path / "program"
    subprocess.run(["g++", *FLAGS, *flags, *SOURCES, "-o", program], check=True)
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
