"""Errors of the orchestration for a person to read; each ends with the fix."""

from __future__ import annotations


class RebuildError(Exception):
    """A rebuild that cannot start or go on; the message ends with the fix."""
