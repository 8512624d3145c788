"""Made tables: themes with words, numbers and days, drawn from a seed. Clean here; families make them messy."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from codeact.evals.tables.table import Cell, Column, Table

Number = tuple[str, str, float, float, int]
"""Name, concept, middle, spread of the logarithm, decimals."""


@dataclass(frozen=True)
class Theme:
    """``ids``: what rows are called: a prefix for codes, or given words. ``labels``: a column's name and its words."""

    about: str
    id: str
    ids: str | tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    numbers: tuple[Number, ...]
    day: str = ""


THEMES: Mapping[str, Theme] = {
    "orders": Theme("orders", "order_id", "ORD", {
        "region": ("North", "South", "East", "West"),
        "product": ("Laptop", "Monitor", "Keyboard", "Mouse", "Printer", "Webcam"),
        "channel": ("Online", "Shop", "Phone")},
        (("unit_price", "price", 80, 0.7, 2), ("quantity", "", 5, 0.6, 0), ("shipping_cost", "cost", 7, 0.5, 2)),
        "order_date"),
    "employees": Theme("employees", "name", (), {
        "department": ("Sales", "Support", "Research", "Finance", "Legal"),
        "office": ("Berlin", "Lyon", "Porto", "Turin"),
        "contract": ("full time", "part time")},
        (("salary", "pay", 48000, 0.3, 0), ("age", "age", 41, 0.25, 0), ("overtime_hours", "", 14, 0.7, 1)),
        "hired"),
    "sensors": Theme("readings", "reading_id", "R", {
        "station": ("Alpha", "Bravo", "Charlie", "Delta", "Echo"),
        "quality": ("good", "fair", "poor")},
        (("temperature", "temperature", 17, 0.3, 1), ("humidity", "", 61, 0.2, 1), ("wind_speed", "speed", 9, 0.6, 1)),
        "taken_on"),
    "trips": Theme("trips", "trip_id", "T", {
        "vehicle": ("van", "truck", "car", "bicycle"),
        "driver": ("Anna", "Boris", "Carla", "Dmitri", "Elena"),
        "zone": ("inner", "outer", "border")},
        (("distance_km", "distance", 23, 0.7, 1), ("duration_min", "duration", 46, 0.5, 0), ("fuel_litres", "", 4, 0.6, 2)),
        "trip_date"),
    "houses": Theme("houses", "address", (), {
        "district": ("Oldtown", "Riverside", "Hillcrest", "Parkside", "Docklands"),
        "type": ("flat", "terraced", "detached"),
        "heating": ("gas", "oil", "electric")},
        (("price", "price", 310000, 0.4, 0), ("floor_area", "area", 96, 0.35, 0), ("rooms", "", 4, 0.35, 0)),
        "sold_on"),
    "books": Theme("books", "title", (), {
        "genre": ("novel", "poetry", "history", "science", "travel"),
        "language": ("English", "French", "Spanish", "German"),
        "binding": ("hardcover", "paperback")},
        (("pages", "", 290, 0.4, 0), ("price", "price", 17, 0.4, 2), ("copies_sold", "sales", 820, 0.9, 0)),
        "published"),
    "students": Theme("students", "student", (), {
        "school": ("Lincoln", "Curie", "Tesla", "Noether"),
        "subject": ("maths", "physics", "music", "biology", "art"),
        "group": ("morning", "evening")},
        (("score", "score", 68, 0.25, 1), ("absences", "", 4, 0.8, 0), ("study_hours", "", 9, 0.6, 1)),
        "exam_date"),
    "plants": Theme("plants", "plant_id", "P", {
        "species": ("fern", "ivy", "maple", "oak", "birch", "cedar"),
        "soil": ("sandy", "clay", "loam"),
        "light": ("sun", "shade")},
        (("height_cm", "height", 54, 0.6, 1), ("weight_g", "weight", 210, 0.7, 1), ("leaves", "", 38, 0.7, 0)),
        "measured"),
    "patients": Theme("visits", "visit_id", "V", {
        "ward": ("A1", "B2", "C3", "D4"),
        "treatment": ("rest", "drug", "surgery", "physio"),
        "insurance": ("public", "private")},
        (("age", "age", 52, 0.35, 0), ("stay_days", "duration", 5, 0.7, 0), ("bill", "cost", 1900, 0.8, 2)),
        "admitted"),
    "machines": Theme("machines", "serial", "M", {
        "line": ("red", "blue", "green", "yellow"),
        "maker": ("Acme", "Borg", "Cyan", "Dyna"),
        "shift": ("day", "night")},
        (("output", "", 460, 0.35, 0), ("scrap_rate", "", 3, 0.6, 2), ("power_kw", "", 12, 0.5, 1)),
        "checked"),
    "matches": Theme("matches", "match_id", "G", {
        "team": ("Lions", "Bears", "Hawks", "Wolves", "Sharks", "Bulls"),
        "venue": ("home", "away"),
        "weather": ("dry", "rain", "snow")},
        (("points", "", 74, 0.3, 0), ("fouls", "", 13, 0.4, 0), ("attendance", "", 5200, 0.6, 0)),
        "played"),
    "recipes": Theme("dishes", "dish", (), {
        "cuisine": ("Thai", "Greek", "Mexican", "Indian", "Italian"),
        "course": ("starter", "main", "dessert"),
        "diet": ("vegan", "vegetarian", "any")},
        (("calories", "", 430, 0.4, 0), ("minutes", "duration", 38, 0.6, 0), ("cost", "cost", 8, 0.5, 2)),
        "added"),
    "calls": Theme("calls", "call_id", "C", {
        "agent": ("Ida", "Jonas", "Kim", "Lea", "Max"),
        "topic": ("billing", "delivery", "returns", "technical"),
        "outcome": ("solved", "open", "dropped")},
        (("seconds", "duration", 240, 0.8, 0), ("waiting_time", "", 35, 0.9, 0), ("rating", "score", 4, 0.25, 1)),
        "called_on"),
    "animals": Theme("animals", "tag", "Z", {
        "kind": ("goat", "sheep", "cow", "pig", "horse"),
        "farm": ("Greenfield", "Longmeadow", "Stonebridge"),
        "sex": ("female", "male")},
        (("weight_kg", "weight", 120, 0.8, 1), ("age_months", "age", 31, 0.6, 0), ("feed_kg", "", 6, 0.6, 2)),
        "weighed"),
    "ships": Theme("ships", "vessel", (), {
        "harbour": ("Rotterdam", "Piraeus", "Gdansk", "Bilbao", "Split"),
        "cargo": ("grain", "ore", "cars", "timber"),
        "flag": ("Malta", "Panama", "Liberia")},
        (("length_m", "length", 180, 0.3, 1), ("tonnage", "", 32000, 0.6, 0), ("crew", "", 21, 0.3, 0)),
        "arrived"),
    "wines": Theme("wines", "bottle", "W", {
        "grape": ("Merlot", "Riesling", "Syrah", "Malbec", "Pinot"),
        "country": ("France", "Italy", "Chile", "Spain"),
        "colour": ("crimson", "golden", "rosy")},
        (("price", "price", 19, 0.6, 2), ("alcohol", "", 13, 0.07, 1), ("stock", "", 140, 0.8, 0)),
        "bottled"),
    "loans": Theme("loans", "loan_no", "L", {
        "branch": ("Harrow", "Kew", "Luton", "Ealing"),
        "medium": ("comic", "record", "atlas", "journal"),
        "card": ("adult", "junior", "senior")},
        (("days_out", "duration", 17, 0.6, 0), ("fee", "cost", 1.4, 0.8, 2), ("renewals", "", 2, 0.6, 0)),
        "lent_on"),
    "satellites": Theme("satellites", "code", "S", {
        "orbit": ("low", "medium", "polar", "geostationary"),
        "operator": ("Orbita", "Skylink", "Terrawatch", "Lumen"),
        "purpose": ("weather", "mapping", "relay")},
        (("mass_kg", "weight", 640, 0.9, 1), ("speed_kms", "speed", 7.1, 0.15, 3), ("panels", "", 6, 0.5, 0)),
        "launched"),
}  # fmt: skip

_FIRST = (
    "Ada", "Ben", "Cleo", "Dario", "Edith", "Finn", "Greta", "Hugo", "Iris", "Jan", "Klara", "Luis", "Mara", "Nils",
    "Olga", "Pavel", "Queenie", "Rosa", "Sven", "Tara", "Ugo", "Vera", "Wim", "Xenia", "Yann", "Zora",
)  # fmt: skip
_LAST = (
    "Abbott", "Berg", "Costa", "Dietz", "Engel", "Fabre", "Grant", "Holm", "Ito", "Jansen", "Kovac", "Lund", "Moreau",
    "Novak", "Ortiz", "Petit", "Quist", "Rossi", "Silva", "Torres", "Unger", "Vogel", "Weber", "Young", "Zeman",
)  # fmt: skip

_FORMS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name,
    lambda name: name.title(),
    lambda name: "".join(part.title() for part in name.split("_")),
    lambda name: name.replace("_", " "),
    lambda name: name.replace("_", " ").title(),
)
"""How a table writes its columns' names; one form a table."""


def make(theme: str, rng: random.Random, rows: tuple[int, int] = (30, 240)) -> Table:
    """A table of a theme: every value there, names unique, days within about two years."""
    plan = THEMES[theme]
    count = rng.randint(*rows)
    form = rng.choice(_FORMS)
    columns = [Column(form(plan.id), "id", _ids(plan, rng, count))]
    for name, words in plan.labels.items():
        columns.append(Column(form(name), "label", _labels(words, rng, count)))
    lean = columns[1]  # the first labels move the numbers, so that groups differ
    for name, concept, middle, spread, decimals in plan.numbers:
        factor = {label: rng.uniform(0.75, 1.35) for label in lean.labels}
        values: list[Cell] = []
        for label in lean.values:
            value = middle * factor[str(label)] * 2.718281828459045 ** (spread * _bell(rng))
            values.append(round(value, decimals) if decimals else max(1, round(value)))
        columns.append(Column(form(name), "number", tuple(values), concept))
    if plan.day:
        start = date(rng.randint(2018, 2023), rng.randint(1, 12), 1)
        length = rng.choice((90, 200, 365, 600))
        days = sorted(start + timedelta(days=rng.randrange(length)) for _ in range(count))
        if rng.random() < 0.4:
            rng.shuffle(days)
        columns.insert(1, Column(form(plan.day), "date", tuple(day.isoformat() for day in days)))
    file = rng.choice((f"{theme}.csv", f"{theme}.csv", f"{theme}_{rng.randint(2019, 2025)}.csv", f"my_{theme}.csv"))
    return Table(f"made/{theme}", file, tuple(columns), plan.about)


def _bell(rng: random.Random) -> float:
    """Nearly normal, from additions only: the same on every machine."""
    return sum(rng.random() for _ in range(12)) - 6.0


def _ids(plan: Theme, rng: random.Random, count: int) -> tuple[str, ...]:
    if isinstance(plan.ids, str):
        first = rng.randint(100, 4000)
        return tuple(f"{plan.ids}-{first + step}" for step in range(count))
    names = [f"{first} {last}" for first in _FIRST for last in _LAST]
    rng.shuffle(names)
    return tuple(names[:count])


def _labels(words: tuple[str, ...], rng: random.Random, count: int) -> tuple[str, ...]:
    """Each word at least three times, some far more often than others."""
    weights = [rng.uniform(0.5, 2.5) for _ in words]
    drawn = [word for word in words for _ in range(3)] + rng.choices(words, weights, k=max(0, count - 3 * len(words)))
    rng.shuffle(drawn)
    return tuple(drawn[:count])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
