"""The work of flows: DVC's stages, and the locks, leases and reports around them."""

import sys

from tasks.early_interrupt import answer_early_interrupt, start_again_with_docstrings
from tasks.surroundings import settle_surroundings

if sys.argv[0] == "-m":  # so Python calls it while it looks for the module to run as a command
    start_again_with_docstrings()
    answer_early_interrupt()
    settle_surroundings()
