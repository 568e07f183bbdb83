"""Helper package of the course "Supervised fine-tuning of language models"."""

import os

__version__ = "0.1.0"

# How torch's threads wait for each other. Spinning for long burns a core that another program may
# want, and then all wait for the thread that lost it; going to sleep at once makes each of the many
# small steps of an update wait for a thread to wake up. So: spin shortly, then sleep. Measured by
# `benchmarks/training.py waiting`. torch reads this when imported; a policy of yours stays.
SPIN_COUNT = "3000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # GNU's OpenMP only, which Linux uses
