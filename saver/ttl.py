"""The time that a thread lives without use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from eventlog.errors import InvalidArgument

__all__ = ["TimeToLive"]


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """The milliseconds that a write or a read gives a thread; 0 for no limit."""

    on_write: int = 0
    on_read: int = 0

    @classmethod
    def of(cls, ttl: float | Mapping[str, Any] | None) -> TimeToLive:
        """Takes minutes, or `{"default_ttl": minutes, "refresh_on_read": bool}`.

        None and -1 stand for no limit. Raises `InvalidArgument` for unknown keys and for minutes that are not above 0, `TypeError`
        for other types.
        """
        if ttl is None:
            return cls()
        if not isinstance(ttl, Mapping):
            ttl = {"default_ttl": ttl}
        unknown = set(ttl) - {"default_ttl", "refresh_on_read"}
        if unknown:
            raise InvalidArgument(
                f"ttl has unknown keys {sorted(unknown, key=repr)}; it takes default_ttl (minutes) and refresh_on_read."
            )
        minutes, refresh = ttl.get("default_ttl"), ttl.get("refresh_on_read", False)
        if minutes is None or minutes == -1:
            return cls()
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)):
            raise TypeError(f"ttl must be a number of minutes, not {type(minutes).__name__}.")
        if not isinstance(refresh, bool):
            raise TypeError(f"refresh_on_read must be a bool, not {type(refresh).__name__}.")
        ms = round(minutes * 60_000) if isfinite(minutes) else 0
        if not 0 < ms < 10**14:
            raise InvalidArgument(
                f"ttl must be above 0 minutes, not {minutes}; pass None (or -1) to keep threads until deleted."
            )
        return cls(ms, ms if refresh else 0)
