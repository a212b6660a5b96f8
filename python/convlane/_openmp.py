"""Loads `_core`, and with it OpenMP, whose threads should not spin long after they were needed.

When GCC's OpenMP is loaded, it reads from the environment how long its threads spin before they sleep, by default
300,000 pauses, which take 20 ms on a Xeon of 2023. A smaller number is set while it is loaded, unless the user has
chosen one. If another library has loaded OpenMP before, the number from then stays in effect.
"""

import os

# 0.7 ms if a pause takes 140 cycles, as on Intel's CPUs since Skylake, and less on others.
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
