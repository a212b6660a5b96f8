"""Loads `_core`, and with it OpenMP, whose threads are not to burn CPU long after they were needed.

GCC's OpenMP reads how long its threads wait awake from the environment when it is loaded, and by default waits for
300,000 pauses, 20 ms of a Xeon of 2023. While it is loaded a smaller number stands there, unless one has been chosen.
Where another library has loaded it before, that one's choice stays.
"""

import os

# 0.7 ms where a pause takes 140 cycles, as on Intel's CPUs since Skylake, and less elsewhere.
_NAME, _COUNT = "GOMP_SPINCOUNT", "10000"

_before = os.environ.get(_NAME)
if not _before and not os.environ.get("OMP_WAIT_POLICY"):
    os.environ[_NAME] = _COUNT
try:
    from convlane import _core
finally:
    if _before is None:
        os.environ.pop(_NAME, None)
    else:
        os.environ[_NAME] = _before

__all__ = ["_core"]
