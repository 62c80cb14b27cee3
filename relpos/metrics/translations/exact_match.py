"""The share of translations equal to their reference, up to white space."""

FORMAT = "{:.2f}"


def measure(found: list[str], wanted: list[str], language: str) -> float:
    """Return the share in percent."""
    return (
        100 * sum(a.split() == b.split() for a, b in zip(found, wanted, strict=True)) / len(found)
    )
