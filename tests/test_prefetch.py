"""What kernels prefetch, for each instruction set, compiled with a prefetch function that checks the address."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_nothing_beyond_the_weights_is_prefetched(isa, tmp_path):
    """Memory there may be unmapped, and then each prefetch walks the page table in vain."""
    found = re.search(rf"convlane_add_isa\({isa} (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    flags = found[1].split() if found else []
    source = ROOT / "tests/csrc/test_prefetch.cpp"
    program = tmp_path / "program"
    define = f"-DCONVLANE_VEC_{isa.upper()}"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", *flags, define, f"-I{ROOT / 'csrc'}", source, "-o", program], check=True
    )
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "within\n")
