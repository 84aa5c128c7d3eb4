#!/usr/bin/env python3
"""Writes the tables of this folder and the oracles of tests from libphonenumber's data.

    python3 -m venv VENV && VENV/bin/pip install phonenumbers==9.0.42 regex && VENV/bin/python src/core/data/generate.py

Take the version whose metadata the crate `rlibphonenumber` carries, so that both speak of the same numbers.
libphonenumber and the package `phonenumbers` are under the Apache License 2.0.
"""

import pathlib
import random
import sys

import phonenumbers
import regex
from phonenumbers import PhoneMetadata, PhoneNumberType, geocoder, timezone
from phonenumbers.geodata import GEOCODE_DATA
from phonenumbers.phonenumberutil import is_number_type_geographical, region_code_for_number
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


CALLING_CODES = {str(code): regions for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()}
CODES = range(200, 1000)
# By the names of the metadata's descriptions. The types of a fixed line are of a place everywhere; mobile numbers in
# a few countries, which `has_place` knows.
KINDS = "fixed_line toll_free premium_rate shared_cost voip personal_number pager uan voicemail mobile".split()
# How much a search looks at before it begins anew elsewhere, and how much the last does, which must come to an end.
PATIENCE = [1_000] * 50 + [200_000]


class Lost(Exception):
    """A search has looked at too much for either of its answers to be believed."""


def calling_code_of(prefix):
    return next(prefix[:n] for n in (1, 2, 3) if prefix[:n] in CALLING_CODES)


def patterns_of(code, kinds):
    """What the metadata says of numbers behind a calling code: the pattern and the lengths, by type."""
    for region in CALLING_CODES[code]:
        metadata = (
            PhoneMetadata.metadata_for_nongeo_region(int(code))
            if region == "001"
            else PhoneMetadata.metadata_for_region(region)
        )
        for kind in kinds:
            description = getattr(metadata, kind)
            # Where both look alike each number is of both types, and found as a fixed line already.
            pattern = description and description.national_number_pattern
            twin = kind == "mobile" and pattern == metadata.fixed_line.national_number_pattern
            if pattern and not twin:
                lengths = description.possible_length or metadata.general_desc.possible_length
                yield regex.compile(pattern), set(lengths)


def find(prefix, kinds=KINDS, fits=lambda number: True, leads=lambda digits: True):
    """A valid number under the prefix that fits, or None: there is none. Of digits that don't lead on none is sought.

    Every way to complete the prefix is tried, but where no number of the types begins so: None is a proof."""
    for nth, looks_max in enumerate(PATIENCE):
        try:
            return search(prefix, kinds, fits, leads, random.Random(f"{prefix} {nth}"), looks_max)
        except Lost:
            pass
    raise Lost(prefix)


def search(prefix, kinds, fits, leads, dice, looks_max):
    code, looks = calling_code_of(prefix), 0

    def below(digits, pattern, lengths):
        nonlocal looks
        looks += 1
        if looks > looks_max:
            raise Lost
        national = digits[len(code) :]
        if not leads(digits) or not pattern.fullmatch(national, partial=True):
            return None
        if len(national) in lengths and pattern.fullmatch(national):
            number = phonenumbers.parse("+" + digits)
            whole = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) == "+" + digits
            if whole and phonenumbers.is_valid_number(number) and fits(number):
                return digits
        if len(national) >= max(lengths):
            return None
        tries = (below(digits + digit, pattern, lengths) for digit in dice.sample("0123456789", 10))
        return next(filter(None, tries), None)

    tries = (below(prefix, pattern, lengths) for pattern, lengths in patterns_of(code, kinds))
    return next(filter(None, tries), None)


def longest(table, digits):
    return next((digits[:n] for n in range(len(digits), 0, -1) if digits[:n] in table), None)


def has_place(number):
    return is_number_type_geographical(phonenumbers.number_type(number), number.country_code)


def zones_row(number):
    """The row of the table of time zones that speaks of a number: that of its calling code if it is of no place."""
    code = str(number.country_code)
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return longest(TIMEZONE_DATA, e164[1:] if has_place(number) else code)


def of_row(table, prefix):
    """A valid number of a place, of which no longer row speaks than that of the prefix; else None."""
    code = calling_code_of(prefix)
    mobile = is_number_type_geographical(PhoneNumberType.MOBILE, int(code))
    kinds = ["fixed_line", "mobile"] if mobile else ["fixed_line"]
    return find(prefix, kinds, has_place, lambda digits: longest(table, digits) == prefix)


def of_zones_row(prefix):
    """A valid number of which that row of the time zones speaks; else None."""
    found = of_row(TIMEZONE_DATA, prefix)
    if not found and prefix == calling_code_of(prefix):
        found = find(prefix, KINDS[1:], lambda number: not has_place(number))
    return found


def why_none(table, prefix):
    """Why no row of the prefix ever speaks of a valid number."""
    if not find(prefix):
        return "no valid number begins so"
    if not find(prefix, leads=lambda digits: longest(table, digits) == prefix):
        return "every valid number that begins so has a longer row"
    return "what has no longer row is of no place: the calling code's row speaks"


def of_each_type(code):
    """A valid number of each type under a North American code, without those that are too short to dial from abroad."""
    found = {find(f"1{code}", [kind], lambda number: number.national_number >= 2 * 10**9) for kind in KINDS}
    return sorted(filter(None, found))


def line(kind, prefix, digits):
    return f",{kind},{prefix},+{digits},{expected('+' + digits)}"


def write_prefixes():
    """For every row of both tables a valid number of which it speaks. Rows that speak of none are listed with the
    reason; what is valid and begins so is a line `UNDER` all the same. Then every North American code."""
    lines, unreachable = [], []
    states = nanp_regions()
    for table, name, example in (
        (TIMEZONE_DATA, "ZONES", of_zones_row),
        (states, "STATE", lambda prefix: of_row(states, prefix)),
    ):
        for prefix in sorted(table):
            if digits := example(prefix):
                number = phonenumbers.parse("+" + digits)
                speaks = zones_row(number) if name == "ZONES" else longest(table, digits)
                if speaks != prefix:
                    raise RuntimeError(f"{digits} was to be of the row {prefix}, and is of {speaks}")
                lines.append(line(name, prefix, digits))
                continue
            unreachable.append(f"{name},{prefix},{why_none(table, prefix)}")
            if digits := find(prefix):
                lines.append(line("UNDER", prefix, digits))
    lines += (line("CODE", f"1{code}", digits) for code in CODES for digits in of_each_type(code))
    write(TESTS / "phone_prefixes.csv", lines)
    write(TESTS / "unreachable_prefixes.csv", unreachable)


def write_codes():
    """Every code of North America, once for each place and set of time zones that its numbers have: sought under every
    row of both tables, and among numbers of every type."""
    states = nanp_regions()
    rows = {prefix for prefix in {*TIMEZONE_DATA, *states} if prefix.startswith("1")}
    either, lines = {*TIMEZONE_DATA, *states}, []
    for code in CODES:
        under = sorted(row for row in rows if row.startswith(f"1{code}"))
        found = [of_row(either, row) for row in under] + of_each_type(code)
        said = {}
        for digits in filter(None, found):
            _, _, country, _, _, _, state, zones = expected("+" + digits).split(",")
            said.setdefault(f"{code},{country},{state},{zones}", f"+{digits}")
        lines += (f"{answer},{number}" for answer, number in sorted(said.items()))
    write(TESTS / "nanp_codes.csv", lines)


if __name__ == "__main__":
    write_tables()
    write_examples()
    write_prefixes()
    write_codes()
