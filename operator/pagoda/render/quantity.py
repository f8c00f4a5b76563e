"""Kubernetes resource quantities as numbers (apimachinery's `resource.Quantity`)."""

from decimal import Decimal

_FACTORS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
} | {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", start=1)}


def parse_quantity(text: str) -> Decimal:
    """Read a quantity such as `500m`, `2`, `1e3` or `4Gi`.

    Raises:
        ValueError: it is none.
    """
    for length in (2, 1):
        if (factor := _FACTORS.get(text[-length:])) is not None and text[:-length]:
            return _number(text[:-length], text) * factor
    return _number(text, text)


def _number(digits: str, text: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError as error:
        raise ValueError(f"{text!r} is not a quantity") from error
