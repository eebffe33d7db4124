"""Accounts of the system."""

from dataclasses import dataclass


@dataclass
class Account:
    name: str
    uid: int
    gid: int
