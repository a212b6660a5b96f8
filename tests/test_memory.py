"""The memory of a training step is kept for the next one, and released when training is over."""

import subprocess
import sys
import textwrap


def test_memory_is_kept_while_training_lasts():
    """In a process of its own, whose memory no other test has used."""
    program = """
        import numpy as np
        import convlane
        from convlane import nn
        from convlane.functional import mse_loss

        def resident_mb():
            with open("/proc/self/status") as lines:
                return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))

        model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        images = np.ones((8, 3, 160, 160), np.float32)
        targets = np.zeros((8, 32, 160, 160), np.float32)
        steps = [convlane.value_and_grad(lambda x: mse_loss(model(x), targets), model)]
        before = resident_mb()
        for _ in range(4):
            steps[0](images)
        held = resident_mb()
        assert held > before + 80, "four activations of 26 MB, and their gradients"
        steps[0](images)
        assert resident_mb() < held + 30
        steps.clear()
        assert resident_mb() < before + 50, "32 MiB are kept"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
