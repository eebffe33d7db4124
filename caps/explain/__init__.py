"""Judges: what execve(2) and ppy(8) would do with a file, why, and what to do about it."""

from caps.explain.explanation import Advice, Check, Explanation, Step, explain

__all__ = ['Advice', 'Check', 'Explanation', 'Step', 'explain']
