"""When two clocks differ too much."""

from streamer.doctor.findings import Finding, fail, ok, warn

WARN_US = 1_000_000
FAIL_US = 5_000_000
"""Tokens that others issue are not accepted with such a difference, and `log_ahead_of_clock` is logged."""

_FIX = "synchronize the clocks: run an NTP client on both machines"


def judge_skew(whose: str, ahead_us: int, error_us: int = 0) -> Finding:
    """Judge a clock that is ahead of another one, or behind it if negative, give or take an error."""
    difference = max(abs(ahead_us) - error_us, 0)
    if difference < WARN_US:
        return ok(f"{whose} differs by less than {max((abs(ahead_us) + error_us) / 1e6, 0.001):.3f} s")
    text = f"{whose} is {abs(ahead_us) / 1e6:.1f} s {'ahead' if ahead_us > 0 else 'behind'}"
    return fail(text, _FIX) if difference >= FAIL_US else warn(text, _FIX)
