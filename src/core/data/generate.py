#!/usr/bin/env python3
"""Writes the tables of this folder and the oracle of the phone tests from libphonenumber's data.

    python3 -m venv VENV && VENV/bin/pip install phonenumbers==9.0.42 && VENV/bin/python src/core/data/generate.py

Take the version whose metadata the crate `rlibphonenumber` carries, so that both speak of the same numbers.
libphonenumber and the package `phonenumbers` are under the Apache License 2.0.
"""

import pathlib
import random
import sys

import phonenumbers
from phonenumbers import PhoneNumberType, geocoder, timezone
from phonenumbers.geodata import GEOCODE_DATA
from phonenumbers.phonenumberutil import region_code_for_number
from phonenumbers.tzdata import TIMEZONE_DATA

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parents[2] / "tests" / "data"
HEADER = f"""\
# Written by src/core/data/generate.py from libphonenumber's data, version {phonenumbers.__version__}; don't edit.
# Copyright (C) The Libphonenumber Authors. Licensed under the Apache License, Version 2.0.
"""

STATES = {
    "US": "Alabama AL,Alaska AK,Arizona AZ,Arkansas AR,California CA,Colorado CO,Connecticut CT,Delaware DE,"
    "Washington D.C. DC,Florida FL,Georgia GA,Hawaii HI,Idaho ID,Illinois IL,Indiana IN,Iowa IA,Kansas KS,"
    "Kentucky KY,Louisiana LA,Maine ME,Maryland MD,Massachusetts MA,Michigan MI,Minnesota MN,Mississippi MS,"
    "Missouri MO,Montana MT,Nebraska NE,Nevada NV,New Hampshire NH,New Jersey NJ,New Mexico NM,New York NY,"
    "North Carolina NC,North Dakota ND,Ohio OH,Oklahoma OK,Oregon OR,Pennsylvania PA,Rhode Island RI,"
    "South Carolina SC,South Dakota SD,Tennessee TN,Texas TX,Utah UT,Vermont VT,Virginia VA,Washington State WA,"
    "West Virginia WV,Wisconsin WI,Wyoming WY",
    # British Colombia is the data's own spelling of one code. Watson Lake is named without its territory.
    "CA": "Alberta AB,British Columbia BC,British Colombia BC,Manitoba MB,New Brunswick NB,"
    "Newfoundland and Labrador NL,Northwest Territories NT,Nova Scotia NS,Nunavut NU,Ontario ON,"
    "Prince Edward Island PE,Quebec QC,Saskatchewan SK,Yukon YT,Watson Lake YT",
}
BY_NAME, BY_CODE = {}, {}
for country, states in STATES.items():
    for name, code in (state.rsplit(" ", 1) for state in states.split(",")):
        BY_NAME[name] = BY_CODE[code] = f"{country}-{code}"


def state_of(description):
    """`San Antonio, TX` and `Texas` are US-TX; a place in neither country, or in several states, is None."""
    head, comma, code = description.rpartition(", ")
    return BY_CODE.get(code) if comma else BY_NAME.get(description)


def nanp_regions():
    """Prefix -> state, without the rows that a shorter prefix says already."""
    said = {k: state_of(v["en"]) for k, v in GEOCODE_DATA.items() if k.startswith("1") and "en" in v}
    rows = {}
    for code in sorted({prefix[:4] for prefix in said}):
        below = {prefix: state for prefix, state in said.items() if prefix.startswith(code)}
        states = {state for state in below.values() if state}
        if not states:
            continue
        # The code's own row; one without is the state's on which all its exchanges agree, as codes don't cross
        # state lines but for a few, which are listed by exchange alone.
        own = below.get(code, next(iter(states)) if len(states) == 1 else None)
        if own:
            rows[code] = own
        rows.update({p: s for p, s in below.items() if s and p != code and s != own})
    return rows


def write(path, lines):
    path.write_text(HEADER + "".join(line + "\n" for line in lines))
    print(f"{path}: {path.stat().st_size} bytes", file=sys.stderr)


def write_tables():
    write(HERE / "nanp_regions.csv", (f"{p},{s}" for p, s in sorted(nanp_regions().items())))
    # +1 as a whole is 42 zones: a code that isn't mapped is unknown, not everywhere at once.
    zones = {prefix: zones for prefix, zones in TIMEZONE_DATA.items() if prefix != "1"}
    write(HERE / "zones.csv", (f"{p},{' '.join(z)}" for p, z in sorted(zones.items())))


def type_name(kind):
    return PhoneNumberType.to_string(kind)


def expected(text):
    """What libphonenumber says of a number: possible, valid, country, type, state, time zones."""
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException:
        return "unparsable,,,,,,"
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    reason = phonenumbers.is_possible_number_with_reason(number)
    possible = "possible" if reason == phonenumbers.ValidationResult.IS_POSSIBLE else "impossible"
    valid = "valid" if phonenumbers.is_valid_number(number) else "invalid"
    country = region_code_for_number(number) or ""
    country = "" if country == "001" else country
    state = ""
    if country in STATES:
        state = state_of(geocoder.description_for_valid_number(number, "en")) or ""
    zones = timezone.time_zones_for_number(number)
    known = zones != ("Etc/Unknown",) and zones != TIMEZONE_DATA["1"]
    zones = " ".join(zones) if known else ""
    area = phonenumbers.length_of_geographical_area_code(number)
    kind = type_name(phonenumbers.number_type(number))
    return f"{possible},{valid},{country},{kind},{e164},{area},{state},{zones}"


def example_numbers():
    kinds = [k for k in PhoneNumberType.values() if k != PhoneNumberType.UNKNOWN]
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in kinds:
            if number := phonenumbers.example_number_for_type(region, kind):
                yield region, type_name(kind), number
        if number := phonenumbers.invalid_example_number(region):
            yield region, "INVALID", number
    for code in sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS):
        if number := phonenumbers.example_number_for_non_geo_entity(code):
            yield "001", "NON_GEO", number


def write_examples():
    """Every example number, and each one digit shorter, one longer, and with its last digit doubled."""
    lines = {}
    for region, kind, number in example_numbers():
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        pretty = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
        for how, text in (("", e164), ("pretty", pretty), ("short", e164[:-1]), ("long", e164 + e164[-1])):
            lines.setdefault(f"{text}", f"{region},{kind},{how},{text},{expected(text)}")
    write(TESTS / "phone_examples.csv", lines.values())


def write_prefixes():
    """A valid number under every prefix of both tables that has one."""
    dice = random.Random(9042)
    prefixes = set(TIMEZONE_DATA) | set(nanp_regions()) | {f"1{code}" for code in range(200, 1000)}
    lines = []
    for prefix in sorted(prefixes):
        for _ in range(60):
            length = dice.randint(9, 13) if not prefix.startswith("1") else 11
            text = "+" + prefix + "".join(dice.choice("0123456789") for _ in range(length - len(prefix)))
            try:
                number = phonenumbers.parse(text)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(number):
                lines.append(f",PREFIX,{prefix},{text},{expected(text)}")
                break
    write(TESTS / "phone_prefixes.csv", lines)


if __name__ == "__main__":
    write_tables()
    write_examples()
    write_prefixes()
