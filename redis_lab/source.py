"""The SQLite source of truth: a shop, generated here, always the same for the same seed and scale.

Popularity is known by construction: product `k` has rank `k`, and is viewed, ordered and reviewed
with a probability proportional to `1 / k ** EXPONENT`. Page views and orders arrive as Poisson
processes. data/README.md describes the tables; `redis-lab data` makes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from .child import TemporaryFolder
from .errors import LabError
from .files import data_folder

SCHEMA_VERSION = 1
SEED = 20250101
EXPONENT = 0.9
YEAR = 2025
START = int(datetime(YEAR, 1, 1, tzinfo=UTC).timestamp())
END = int(datetime(YEAR + 1, 1, 1, tzinfo=UTC).timestamp())

# Otherwise SQLite would treat numpy's integers as blobs, and find nothing.
sqlite3.register_adapter(np.int64, int)

CATEGORIES = (
    *("Lamps", "Chairs", "Tables", "Rugs", "Books", "Games", "Tools", "Garden", "Kitchen"),
    *("Bicycles", "Cameras", "Audio", "Shoes", "Coats", "Toys", "Paper", "Plants", "Clocks"),
    *("Mugs", "Bags"),
)
STYLES = ("Plain", "Bright", "Quiet", "Sturdy", "Light", "Folding", "Northern", "Little", "Grand")
WORDS = ("good", "as described", "came late", "lovely", "too small", "would buy again", "fine")


@dataclass(frozen=True)
class Scale:
    """How many rows of each; of page views and orders the expected number (Poisson)."""

    users: int
    products: int
    reviews: int
    orders: int
    page_views: int
    pickup_points: int


SCALES = {
    "small": Scale(500, 200, 1_000, 2_000, 4_000, 100),
    "default": Scale(20_000, 2_000, 40_000, 100_000, 200_000, 5_000),
    "large": Scale(100_000, 10_000, 200_000, 500_000, 1_000_000, 25_000),
}

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL,
    joined INTEGER NOT NULL);
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE products (id INTEGER PRIMARY KEY, category_id INTEGER NOT NULL REFERENCES categories,
    name TEXT NOT NULL, price_cents INTEGER NOT NULL, stock INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1);
CREATE TABLE reviews (id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES products,
    user_id INTEGER NOT NULL REFERENCES users, at INTEGER NOT NULL, stars INTEGER NOT NULL,
    text TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users,
    at INTEGER NOT NULL);
CREATE TABLE order_lines (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders,
    product_id INTEGER NOT NULL REFERENCES products, quantity INTEGER NOT NULL,
    price_cents INTEGER NOT NULL);
CREATE TABLE page_views (id INTEGER PRIMARY KEY, at INTEGER NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users, product_id INTEGER NOT NULL REFERENCES products);
CREATE TABLE pickup_points (id INTEGER PRIMARY KEY, name TEXT NOT NULL, lon REAL NOT NULL,
    lat REAL NOT NULL);
"""
INDEXES = """
CREATE INDEX products_by_category ON products (category_id);
CREATE INDEX reviews_by_product ON reviews (product_id, at);
CREATE INDEX orders_by_time ON orders (at);
CREATE INDEX order_lines_by_order ON order_lines (order_id);
CREATE INDEX order_lines_by_product ON order_lines (product_id);
CREATE INDEX page_views_by_time ON page_views (at);
"""
SHOWN = ("products", "orders", "order_lines")
TABLES = (
    *("meta", "users", "categories", "products", "reviews", "orders", "order_lines"),
    *("page_views", "pickup_points"),
)


def zipf_probabilities(n: int, exponent: float) -> np.ndarray:
    """P(rank k) = k ** -exponent / sum, for k = 1..n, as an array of n floats that sum to one.

    Raises: LabError for n below one or a negative exponent.
    """
    if not (n >= 1 and 0 <= exponent < float("inf")):
        raise LabError(
            f"Zipf needs at least one rank and no negative exponent, not {n}, {exponent}."
        )
    weights = np.arange(1, n + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def popularity(products: int) -> np.ndarray:
    """The probability with which each product of a shop is viewed or ordered, product 1 first."""
    return zipf_probabilities(products, EXPONENT)


# ---------------------------------------------------------------- creating it


def _draw_poisson_times(random: np.random.Generator, expected: int) -> np.ndarray:
    """The times of a Poisson process over the year, in whole seconds, in order."""
    count = random.poisson(expected)
    return np.sort(random.integers(START, END, count))


def _generate_rows(size: Scale, seed: int) -> Iterable[tuple[str, list[Sequence | np.ndarray]]]:
    """Each table's name and its columns after the id."""
    random = np.random.Generator(np.random.PCG64(seed))
    chance = popularity(size.products)

    def some_products(count: int) -> np.ndarray:
        return 1 + np.searchsorted(chance.cumsum(), random.random(count) * chance.sum())

    def some_users(count: int) -> np.ndarray:
        return random.integers(1, size.users + 1, count)

    names = [f"User {k}" for k in range(1, size.users + 1)]
    emails = [f"user{k}@shop.example" for k in range(1, size.users + 1)]
    yield "users", [names, emails, np.sort(random.integers(START - 10**8, START, size.users))]
    yield "categories", [CATEGORIES]

    category = 1 + np.arange(size.products) % len(CATEGORIES)
    titles = [
        f"{STYLES[k % len(STYLES)]} {CATEGORIES[k % len(CATEGORIES)].rstrip('s').lower()} {k + 1}"
        for k in range(size.products)
    ]
    price = random.integers(2, 400, size.products) * 50 - 1
    stock = random.integers(0, 500, size.products)
    yield "products", [category, titles, price, stock, np.ones(size.products, dtype=int)]

    stars = random.choice([1, 2, 3, 4, 5], size.reviews, p=[0.05, 0.08, 0.17, 0.3, 0.4])
    texts = [WORDS[k] for k in random.integers(0, len(WORDS), size.reviews)]
    when = np.sort(random.integers(START, END, size.reviews))
    product, user = some_products(size.reviews), some_users(size.reviews)
    yield "reviews", [product, user, when, stars, texts]

    ordered = _draw_poisson_times(random, size.orders)
    yield "orders", [some_users(len(ordered)), ordered]
    lines = random.integers(1, 6, len(ordered))
    order = np.repeat(np.arange(1, len(ordered) + 1), lines)
    product = some_products(len(order))
    yield "order_lines", [order, product, random.integers(1, 4, len(order)), price[product - 1]]

    viewed = _draw_poisson_times(random, size.page_views)
    yield "page_views", [viewed, some_users(len(viewed)), some_products(len(viewed))]

    # Around a few dozen towns, as pick-up points are.
    towns = random.uniform([-8, 36], [24, 60], (40, 2))
    places = towns[random.integers(0, len(towns), size.pickup_points)]
    places = (places + random.normal(0, 0.05, places.shape)).round(6)
    labels = [f"Point {k}" for k in range(1, size.pickup_points + 1)]
    yield "pickup_points", [labels, places[:, 0], places[:, 1]]


def _write_database(file: Path, scale: str, seed: int) -> None:
    """Write the whole shop into a new file."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript("PRAGMA page_size=4096; PRAGMA journal_mode=off;" + SCHEMA)
        database.execute("BEGIN")
        facts = {"schema": SCHEMA_VERSION, "scale": scale, "seed": seed, "exponent": EXPONENT}
        database.executemany("INSERT INTO meta VALUES (?, ?)", sorted(facts.items()))
        for table, columns in _generate_rows(SCALES[scale], seed):
            plain = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns]
            marks = ", ".join("?" * (len(plain) + 1))
            database.executemany(
                f"INSERT INTO {table} VALUES ({marks})",
                zip(range(1, len(plain[0]) + 1), *plain, strict=True),
            )
        database.executescript(INDEXES + "ANALYZE;")  # which commits first


def _name_file(scale: str, seed: int) -> Path:
    if scale not in SCALES:
        raise LabError(f"There is no scale {scale!r}; there are {', '.join(SCALES)}.")
    if not isinstance(seed, int) or seed < 0:
        raise LabError(f"A seed is a whole number from 0, not {seed!r}.")
    return data_folder() / f"shop-{scale}-{seed}.sqlite"


def make_uri(file: Path, mode: str) -> str:
    return f"{file.resolve().as_uri()}?mode={mode}"


def find_database(scale: str = "default", seed: int = SEED) -> Path | None:
    """The dataset's file, or None if it was not made yet with this version of the schema."""
    file = _name_file(scale, seed)
    if not file.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(make_uri(file, "ro"), uri=True)) as database:
            found = dict(database.execute("SELECT key, value FROM meta"))
    except sqlite3.Error:
        return None
    wanted = (str(SCHEMA_VERSION), scale, str(seed))
    return file if tuple(found.get(k) for k in ("schema", "scale", "seed")) == wanted else None


def make_database(scale: str = "default", seed: int = SEED) -> Path:
    """The dataset's file, made on first use, atomically.

    Raises: LabError when the folder cannot be written or the disk is full.
    """
    if found := find_database(scale, seed):
        return found
    file = _name_file(scale, seed)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(f"{file.stem}-making-", file.parent) as folder:
            made = Path(folder, file.name)
            _write_database(made, scale, seed)
            made.chmod(0o644)
            os.replace(made, file)
    except (OSError, sqlite3.Error, LabError) as error:
        raise LabError(
            f"The shop could not be made in {file.parent.name}/: {error}. Free some disk space, or "
            "point REDIS_LAB_DATA at a folder that can be written."
        ) from error
    return file


# ---------------------------------------------------------------- querying it


def shop(scale: str = "default", *, seed: int = SEED, writable: bool = False) -> Shop:
    """Open the shop: read-only, or with `writable=True` a private copy, removed by `close()`."""
    made = make_database(scale, seed)
    if not writable:
        return Shop(made, writable=False)
    with contextlib.ExitStack() as undo:
        folder = TemporaryFolder("redis-lab-shop-")
        undo.callback(folder.cleanup)
        try:
            copy = Path(shutil.copy(made, folder.name))
        except OSError as error:
            raise LabError(
                f"No room for a copy of the shop: {error.strerror}. Free some disk space."
            ) from error
        opened = Shop(copy, writable=True)
        opened._folder = folder
        undo.pop_all()
    return opened


class Shop:
    """Queries of the shop. One Shop belongs to one thread; `reopen()` gives another thread its own.

    Every answer consists of plain dictionaries and lists, or is None if nothing was found. Times
    are Unix seconds, money is in cents.
    """

    _folder: TemporaryFolder | None = None  # of a private copy

    def __init__(self, file: Path, *, writable: bool) -> None:
        self.file, self.writable = file, writable
        self.database = sqlite3.connect(
            make_uri(file, "rw" if writable else "ro"), uri=True, isolation_level=None, timeout=10
        )
        self.database.row_factory = lambda cursor, row: dict(
            zip((column[0] for column in cursor.description), row, strict=True)
        )
        if writable:  # readers in other threads continue while one thread writes
            self.database.execute("PRAGMA journal_mode=wal")
            self.database.execute("PRAGMA synchronous=normal")

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        scale = self.file.stem.split("-")[1]
        try:
            counts = [f"{self.count(t):,} {t.replace('_', ' ')}" for t in SHOWN]
        except sqlite3.ProgrammingError:
            return f"a shop ({scale}), closed"
        return f"a shop ({scale}): {', '.join(counts)}{'; a private copy' * self.writable}"

    def close(self) -> None:
        """Close it; a writable shop's copy is removed."""
        self.database.close()
        if self._folder:
            self._folder.cleanup()

    def reopen(self) -> Shop:
        """Another connection to the same file, for another thread or process."""
        return Shop(self.file, writable=self.writable)

    def sql(self, query: str, values: Sequence | dict = ()) -> list[dict]:
        """The rows of your own query. Raises: LabError for anything that would write."""
        self.database.execute("PRAGMA query_only = on")
        try:
            return self.rows(query, values)
        except sqlite3.OperationalError as error:
            if "readonly" in str(error):
                raise LabError("sql() only reads; prices change with set_price().") from error
            raise
        finally:
            self.database.execute("PRAGMA query_only = off")

    def rows(self, query: str, values: Sequence | dict = ()) -> list[dict]:
        with self._undamaged():
            return self.database.execute(query, values).fetchall()

    def one(self, query: str, values: Sequence | dict = ()) -> dict | None:
        with self._undamaged():
            return self.database.execute(query, values).fetchone()

    @contextlib.contextmanager
    def _undamaged(self) -> Iterator[None]:
        """Raises: LabError if a page of the file is damaged."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details
            if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            raise LabError(
                f"The shop's file {self.file.name} is damaged ({error}). Remove it from the data "
                "folder, open the shop again, and it is made again."
            ) from error

    def count(self, table: str) -> int:
        """How many rows a table has. Raises: LabError for a table that does not exist."""
        if table not in TABLES:
            raise LabError(f"There is no table {table!r}; there are {', '.join(TABLES)}.")
        (found,) = self.rows(f"SELECT count(*) AS n FROM {table}")
        return found["n"]

    def products(self, limit: int) -> list[dict]:
        """The most popular products, the most popular first."""
        return self.rows("SELECT * FROM products ORDER BY id LIMIT ?", (limit,))

    def user(self, user_id: int) -> dict | None:
        """A user by id: the cheapest query of all."""
        return self.one("SELECT * FROM users WHERE id = ?", (user_id,))

    def product(self, product_id: int) -> dict | None:
        """A product by id, with its `version`."""
        return self.one("SELECT * FROM products WHERE id = ?", (product_id,))

    def product_page(self, product_id: int) -> dict | None:
        """A product with its category, the number and mean of its reviews, and the latest three."""
        found = self.one(
            "SELECT p.*, c.name AS category FROM products p "
            "JOIN categories c ON c.id = category_id WHERE p.id = ?",
            (product_id,),
        )
        if found is None:
            return None
        (reviewed,) = self.rows(
            "SELECT count(*) AS reviews, round(avg(stars), 2) AS stars FROM reviews "
            "WHERE product_id = ?",
            (product_id,),
        )
        found |= reviewed
        found["latest"] = self.rows(
            "SELECT u.name, r.stars, r.text FROM reviews r JOIN users u ON u.id = r.user_id "
            "WHERE product_id = ? ORDER BY r.at DESC, r.id DESC LIMIT 3",
            (product_id,),
        )
        return found

    def best_sellers(self, category_id: int, month: str, limit: int = 10) -> list[dict]:
        """The best-selling products of a category in a month such as "2025-11".

        Raises: LabError for a month of another form.
        """
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        except ValueError as error:
            raise LabError(f"A month looks like 2025-11, not {month!r}.") from error
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        return self.rows(
            "SELECT p.id, p.name, sum(l.quantity) AS sold FROM orders o "
            "JOIN order_lines l ON l.order_id = o.id JOIN products p ON p.id = l.product_id "
            "WHERE o.at >= ? AND o.at < ? AND p.category_id = ? "
            "GROUP BY p.id ORDER BY sold DESC, p.id LIMIT ?",
            (int(first.timestamp()), int(after.timestamp()), category_id, limit),
        )

    def dashboard(self) -> dict:
        """The year on one page: revenue by category, and orders and customers by month."""
        return {
            # One pass over the lines; using their index would take twice as long.
            "revenue_cents": self.rows(
                "SELECT c.name, sum(cents) AS cents FROM (SELECT product_id, "
                "sum(quantity * price_cents) AS cents FROM order_lines NOT INDEXED "
                "GROUP BY product_id) JOIN products p ON p.id = product_id "
                "JOIN categories c ON c.id = p.category_id GROUP BY c.id ORDER BY c.id"
            ),
            "months": self.rows(
                "SELECT strftime('%Y-%m', at, 'unixepoch') AS month, count(*) AS orders, "
                "count(DISTINCT user_id) AS customers FROM orders GROUP BY month ORDER BY month"
            ),
        }

    def set_price(self, product_id: int, price_cents: int) -> int:
        """Change a price, commit, and return the product's new version.

        Raises: LabError on a read-only shop or for a product that is not there.
        """
        if not isinstance(price_cents, int) or price_cents < 0:
            raise LabError(f"A price is a whole number of cents, not {price_cents!r}.")
        return self.change(
            "UPDATE products SET price_cents = ?, version = version + 1 WHERE id = ? "
            "RETURNING version",
            (price_cents, product_id),
            f"There is no product {product_id}.",
        )

    def add_product(self, product_id: int, name: str, price_cents: int) -> int:
        """Create a product with the given id, commit, and return its version, 1.

        Raises: LabError on a read-only shop or if the id is taken.
        """
        return self.change(
            "INSERT OR IGNORE INTO products VALUES (?, 1, ?, ?, 0, 1) RETURNING version",
            (product_id, name, price_cents),
            f"There is a product {product_id} already.",
        )

    def change(self, statement: str, values: Sequence, trouble: str) -> int:
        if not self.writable:
            raise LabError("This shop is read-only. Open a copy of your own: shop(writable=True).")
        changed = self.rows(statement, values)
        if not changed:
            raise LabError(trouble)
        return changed[0]["version"]

    def digest(self) -> str:
        """A hash of all rows, the same on every machine for the same seed and scale."""
        total = hashlib.sha256()
        plain = self.database.cursor()
        plain.row_factory = None
        with self._undamaged():
            for table in TABLES:
                for row in plain.execute(f"SELECT * FROM {table} ORDER BY 1"):
                    total.update(repr(row).encode())
        return total.hexdigest()[:16]
