"""Judges: what execve(2) and ppy(8) would do with a file, why, and what to do about it."""

from caps.explain.explanation import Explanation, explain
from caps.explain.types import Advice, Check, Step

__all__ = ['Advice', 'Check', 'Explanation', 'Step', 'explain']
