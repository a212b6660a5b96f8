"""The team, compiled alone, with OpenMP and with threads of its own; how its threads move between CPUs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = ("affinity", "cpus", "system_files", "team", "threads")
SOURCES = [ROOT / f"csrc/runtime/{name}.cpp" for name in RUNTIME]
FLAGS = ["-std=c++17", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{ROOT / 'csrc'}"]

needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def run_program(source, folder, flags=(), arguments=()):
    """Compile a program of tests/csrc with the runtime, and run it."""
    program = folder / "program"
    command = ["g++", *FLAGS, *flags, *SOURCES, ROOT / "tests/csrc" / source, "-o", program]
    subprocess.run(command, check=True)
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")


# The sanitizer supports neither a fork of several threads nor the way in which GCC's OpenMP waits.
@pytest.mark.parametrize(
    ("flags", "arguments"),
    [([], ["fork"]), (["-fopenmp"], ["fork"]), (["-fsanitize=thread"], [])],
    ids=["own threads", "OpenMP", "own threads sanitized"],
)
@needs_gcc
def test_every_index_is_visited_once(flags, arguments, tmp_path):
    run_program("test_team.cpp", tmp_path, flags, arguments)


@needs_gcc
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs two CPUs")
def test_a_thread_moves_and_has_its_cpus_back(tmp_path):
    run_program("test_affinity.cpp", tmp_path)
