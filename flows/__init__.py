"""The flows: `python -m flows.NAME`."""

import sys

from tasks.early_interrupt import answer_early_interrupt
from tasks.surroundings import settle_surroundings

if sys.argv[0] == "-m":  # so Python calls it while it looks for the module to run as a command
    answer_early_interrupt()
    settle_surroundings()
