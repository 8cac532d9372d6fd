"""Numbers that callers give."""

from __future__ import annotations

__all__ = ["INT_MAX", "UINT32_MAX", "UINT64_MAX", "checked_integer"]

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
INT_MAX = 2**31 - 1


def checked_integer(value: int, name: str, least: int, most: int) -> int:
    """``value``, if it is an integer in this range; else TypeError or ValueError, which name it."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    number = value.__index__()
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}; expected {least} to {most}")
    return number
