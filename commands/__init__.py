"""Commands that people type: small programs over the files of the pipeline; `stages/` holds what DVC runs."""

import sys

from distill.project.errors import answer_early_interrupt, start_again_with_docstrings
from distill.project.surroundings import settle_surroundings

if sys.argv[0] == "-m":  # so Python calls it while it looks for the module to run as a command
    start_again_with_docstrings()
    answer_early_interrupt()
    settle_surroundings()
