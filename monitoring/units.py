"""Values as the dashboard's units write them."""

_SCALES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SUFFIXES = {"reqps": " req/s", "cps": "/s"}


def written(value: float, unit: str) -> str:
    """With three digits that matter, and thousands whole: `2.3 ms`, `45%`, `18 req/s`, `20,180`."""
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    digits = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return digits + _SUFFIXES.get(unit, "")


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    size, name = next((each for each in _SCALES if abs(value) >= each[0]), _SCALES[-1])
    return f"{value / size:.3g} {name}"
