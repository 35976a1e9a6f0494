"""The names of units: what each measures, and how many of the base unit it is."""

from fractions import Fraction

_F = Fraction
_UNITS: dict[str, tuple[str, Fraction]] = {}


def _define(dimension: str, entries: dict[str, int | Fraction]) -> None:
    for names, factor in entries.items():
        for name in names.split():
            _UNITS[name] = (dimension, Fraction(factor))


_define("length", {
    "m meter metre": 1, "mm millimeter millimetre": _F(1, 1000), "cm centimeter centimetre": _F(1, 100),
    "dm decimeter decimetre": _F(1, 10), "km kilometer kilometre": 1000, "nm nanometer": _F(1, 10**9),
    "in inch inche": _F(254, 10000), "ft foot feet": _F(3048, 10000), "yd yard": _F(9144, 10000),
    "mi mile": _F(1609344, 1000),
})  # fmt: skip
_define("mass", {
    "g gram gm": 1, "kg kilogram kilo": 1000, "mg milligram": _F(1, 1000), "ton tonne": 10**6,
    "lb pound": _F(45359237, 100000), "oz ounce": _F(45359237, 1600000),
})  # fmt: skip
_define("time", {
    "s sec second": 1, "ms millisecond": _F(1, 1000), "min minute": 60, "h hr hour": 3600, "day": 86400,
    "week wk": 604800,
})  # fmt: skip
_define("year", {"year yr": 12, "month mo": 1, "decade": 120, "century centurie": 1200})
_define("volume", {"l liter litre": 1, "ml milliliter millilitre": _F(1, 1000), "cl centiliter": _F(1, 100)})
_define("gallon", {"gallon gal": 16, "quart qt": 4, "pint pt": 2, "cup": 1})
_define("usd", {"$ usd dollar buck": 1, "¢ cent": _F(1, 100)})
_define("eur", {"€ eur euro": 1})
_define("gbp", {"£ gbp": 1})  # "pounds" is a mass, unless the other side says £
_define("jpy", {"¥ jpy yen": 1})
_define("inr", {"₹ inr rupee r": 1})
_define("cny", {"yuan rmb": 1})
_define("angle", {"°": 1, "degree": 1, "deg": 1})
_define("radian", {"rad radian": 1})
_define("celsius", {"°c celsius": 1})
_define("fahrenheit", {"°f fahrenheit": 1})
_define("kelvin", {"k kelvin": 1})
_define("force", {"n newton": 1, "kn kilonewton": 1000})
_define("energy", {"j joule": 1, "kj kilojoule": 1000, "mj megajoule": 10**6})
_define("electronvolt", {"ev electronvolt": 1, "kev": 1000, "mev": 10**6})
_define("power", {"w watt": 1, "kw kilowatt": 1000, "mw megawatt": 10**6})
_define("pressure", {"pa pascal": 1, "kpa kilopascal": 1000})
_define("voltage", {"v volt": 1, "mv millivolt": _F(1, 1000)})
_define("current", {"a ampere amp": 1, "ma milliampere": _F(1, 1000)})
_define("resistance", {"ohm": 1})
_define("frequency", {"hz hertz": 1, "khz kilohertz": 1000, "mhz megahertz": 10**6})
_define("charge", {"coulomb": 1})
_define("amount", {"mol mole": 1})
_define("data", {"bit": 1, "byte": 8})
_define("acre", {"acre": 1})
_define("hectare", {"hectare ha": 1})
_define("person", {"person people": 1})
_define("", {"unit": 1, "u": 1})

COMPOUND = {
    "mph": "mile / hour",
    "kph": "km / hour",
    "kmh": "km / hour",
    "mps": "m / s",
    "cc": "cm ^ 3",
    "sqft": "ft ^ 2",
}
CASED = {
    "L": "l",
    "N": "n",
    "J": "j",
    "W": "w",
    "V": "v",
    "A": "a",
    "K": "k",
    "Pa": "pa",
    "Hz": "hz",
    "mL": "ml",
    "C": "coulomb",
}


def lookup(word: str) -> tuple[str, Fraction] | None:
    """Dimension and factor of a unit's name, singular or plural."""
    name = CASED.get(word, word if len(word) == 1 else word.lower())
    return _UNITS.get(name) or (_UNITS.get(name[:-1]) if name.endswith("s") and len(name) > 2 else None)
