"""The shop: the same bytes for a seed, true to its known distributions, and never changed."""

from __future__ import annotations

import gc
import itertools
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from processes import script, within
from scipy import stats

from redis_lab import source
from redis_lab.errors import LabError

README = (Path(__file__).resolve().parents[1] / "data" / "README.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder of this module's own, so that the checkout's is neither needed nor touched."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("data")
        patch.setenv("REDIS_LAB_DATA", str(place))
        yield place


@pytest.fixture
def small(folder):
    with source.shop("small") as shop:
        yield shop


@pytest.fixture
def mine(folder):
    with source.shop("small", writable=True) as shop:
        yield shop


@pytest.fixture(scope="module")
def default(folder):
    with source.shop() as shop:
        yield shop


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    place = tmp_path / "data"
    monkeypatch.setenv("REDIS_LAB_DATA", str(place))
    return place


def stated(title: str) -> dict[str, dict[str, str]]:
    """A table of data/README.md below the heading `title`: row name → column name → cell."""
    section = README.split(f"## {title}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    heads, rows = cells[0], cells[2:]
    return {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}


def frame(shop, table):
    return pd.DataFrame(shop.sql(f"SELECT * FROM {table}"))


def in_child(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **kwargs
    )


# --- The same again --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch):
    made = []
    for name in ("one", "two"):
        monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / name))
        made.append(source.make_database("small").read_bytes())
    assert made[0] == made[1]


def test_another_seed_gives_another_shop(small, fresh):
    with source.shop("small", seed=1) as other:
        assert other.digest() != small.digest()
        assert other.user(1) is not None


def test_a_file_that_is_there_is_not_made_again(small):
    before = source.make_database("small").stat()
    assert source.make_database("small").stat().st_ino == before.st_ino
    assert source.find_database("small") == source.make_database("small")


@pytest.mark.parametrize("scale", ["small", "default"])
def test_counts_and_digest_are_those_of_the_readme(scale, request):
    shop = request.getfixturevalue(scale)
    column = {name: cells[scale] for name, cells in stated("Counts").items()}
    assert shop.digest() == column.pop("digest")
    assert {name: int(n.replace(",", "")) for name, n in column.items()} == {
        name: shop.count(name) for name in source.TABLES if name != "meta"
    }


def test_the_readme_describes_every_table_and_column(small):
    described = {
        name: re.findall(r"\w+", re.sub(r"\(.*?\)", "", cells["columns"]))
        for name, cells in stated("Schema").items()
    }
    assert described == {
        table: [c["name"] for c in small.sql(f"PRAGMA table_info({table})")]
        for table in source.TABLES
    }


def test_the_readme_states_the_seed_and_the_exponent():
    assert f"seed is {source.SEED}" in README
    assert f"exponent {source.EXPONENT}" in README


def test_no_row_refers_to_one_that_is_missing(small):
    assert small.sql("PRAGMA foreign_key_check") == []


# --- What is known by construction -----------------------------------------------------------


@pytest.mark.parametrize("table", ["order_lines", "page_views", "reviews"])
def test_products_are_drawn_by_their_popularity(default, table):
    counts = default.sql(f"SELECT product_id, count(*) AS n FROM {table} GROUP BY 1")
    seen = np.zeros(default.count("products"))
    for row in counts:
        seen[row["product_id"] - 1] = row["n"]
    expected = source.popularity(len(seen)) * seen.sum()
    # Chance alone is below 1e-6 once in a million seeds; this seed is fixed.
    assert stats.chisquare(seen, expected).pvalue > 1e-6
    top = np.arange(1, 101)
    slope = stats.linregress(np.log(top), np.log(seen[:100])).slope
    assert slope == pytest.approx(-source.EXPONENT, abs=0.1)


@pytest.mark.parametrize("table", ["page_views", "orders"])
def test_arrivals_are_poisson(default, table):
    at = np.array([row["at"] for row in default.sql(f"SELECT at FROM {table}")])
    assert at.min() >= source.START and at.max() < source.END
    per_hour = np.bincount((at - source.START) // 3600, minlength=365 * 24)
    # Variance over mean is 1 for Poisson counts; 8,760 hours leave a spread of 0.015.
    assert per_hour.var() / per_hour.mean() == pytest.approx(1, abs=0.1)
    expected = getattr(source.SCALES["default"], table)
    assert abs(len(at) - expected) < 5 * expected**0.5


def test_pickup_points_are_places_that_redis_accepts(small):
    for point in small.sql("SELECT * FROM pickup_points"):
        assert -180 <= point["lon"] <= 180
        assert -85.05112878 <= point["lat"] <= 85.05112878


# --- Each query against an independent computation -------------------------------------------


def test_rows_by_primary_key(small):
    assert small.user(7) == frame(small, "users").set_index("id", drop=False).loc[7].to_dict()
    assert small.product(17) == small.sql("SELECT * FROM products WHERE id = :id", {"id": 17})[0]
    assert small.product(17)["version"] == 1


def test_product_page(small):
    reviews, users = frame(small, "reviews"), frame(small, "users").set_index("id")
    categories = frame(small, "categories").set_index("id")["name"]
    for product_id in (1, 2, 50, 200):
        page, row = small.product_page(product_id), small.product(product_id)
        its = reviews[reviews.product_id == product_id]
        assert row.items() <= page.items()
        assert page["category"] == categories[row["category_id"]]
        assert page["reviews"] == len(its)
        if len(its):
            assert page["stars"] == pytest.approx(its.stars.mean(), abs=0.006)
        latest = its.sort_values(["at", "id"], ascending=False).head(3)
        assert page["latest"] == [
            {"name": users.name[r.user_id], "stars": r.stars, "text": r.text}
            for r in latest.itertuples()
        ]


def joined(shop):
    lines = frame(shop, "order_lines").merge(
        frame(shop, "orders"), left_on="order_id", right_on="id", suffixes=("_line", "")
    )
    products = frame(shop, "products").rename(columns={"id": "product"})
    products = products[["product", "category_id", "name"]]
    lines = lines.merge(products, left_on="product_id", right_on="product")
    lines["month"] = pd.to_datetime(lines["at"], unit="s").dt.strftime("%Y-%m")
    lines["cents"] = lines.quantity * lines.price_cents
    return lines


@pytest.mark.parametrize("month", ["2025-01", "2025-11", "2025-12"])
def test_best_sellers(small, month):
    lines = joined(small)
    for category in (1, 20):
        its = lines[(lines.month == month) & (lines.category_id == category)]
        sold = its.groupby("product_id").quantity.sum().reset_index()
        sold = sold.sort_values(["quantity", "product_id"], ascending=[False, True]).head(5)
        assert [(b["id"], b["sold"]) for b in small.best_sellers(category, month, limit=5)] == [
            *sold.itertuples(index=False, name=None)
        ]


def test_dashboard(small):
    lines, orders = joined(small), frame(small, "orders")
    orders["month"] = pd.to_datetime(orders["at"], unit="s").dt.strftime("%Y-%m")
    dashboard = small.dashboard()
    assert [row["cents"] for row in dashboard["revenue_cents"]] == [
        *lines.groupby("category_id").cents.sum()
    ]
    by_month = orders.groupby("month")
    assert [(m["month"], m["orders"], m["customers"]) for m in dashboard["months"]] == [
        (month, len(its), its.user_id.nunique()) for month, its in by_month
    ]


def test_what_is_not_there_is_none(small):
    assert small.user(0) is small.product(10**9) is small.product_page(10**9) is None
    assert small.best_sellers(1, "2024-01") == []


def test_products_come_by_popularity(small):
    assert [p["id"] for p in small.products(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: source.make_database("huge"),
        lambda: source.shop("huge"),
        lambda: source.find_database("huge"),
    ],
)
def test_an_unknown_scale_says_which_there_are(ask):
    with pytest.raises(LabError, match="small, default, large"):
        ask()


def test_bad_questions_say_what_is_wrong(small):
    with pytest.raises(LabError, match="order_lines"):
        small.count("nothing")
    for month in ("November", "2025-13", "2025"):
        with pytest.raises(LabError, match="2025-11"):
            small.best_sellers(1, month)


def test_the_four_costs_lie_apart(default):
    """Each class costs several times the one before it; the figures are in data/README.md."""

    def steps(ask) -> int:
        """How many times a hundred instructions of its virtual machine SQLite executes."""
        done = []
        default.database.set_progress_handler(lambda: done.append(1), 100)
        ask()
        default.database.set_progress_handler(None, 100)
        return len(done)

    costs = [
        1 + steps(lambda: default.user(777)),
        steps(lambda: default.product_page(1)),
        steps(lambda: default.best_sellers(1, "2025-11")),
        steps(default.dashboard),
    ]
    assert all(later > 3 * earlier for earlier, later in itertools.pairwise(costs))


# --- Changing a private copy -----------------------------------------------------------------


def test_set_price_raises_the_version_by_one_and_commits(mine):
    price = mine.product(17)["price_cents"]
    assert [mine.set_price(17, price + 1), mine.set_price(17, price + 2)] == [2, 3]
    with mine.reopen() as other:
        assert (other.product(17)["price_cents"], other.product(17)["version"]) == (price + 2, 3)


def test_the_dataset_never_changes(small, folder):
    before = source.make_database("small").read_bytes()
    with source.shop("small", writable=True) as copy:
        copy.set_price(17, 1)
        assert small.product(17)["version"] == 1
    assert source.make_database("small").read_bytes() == before


def test_a_copy_is_removed_on_close_and_when_forgotten(folder):
    closed = source.shop("small", writable=True)
    closed.close()
    assert not closed.file.parent.exists()
    forgotten = source.shop("small", writable=True)
    place = forgotten.file.parent
    assert place.exists()
    del forgotten
    gc.collect()
    assert not place.exists()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_copy_is_removed_whatever_ends_its_owner(folder, sign):
    owner = subprocess.Popen(
        script(
            """
            import time
            from redis_lab import source
            shop = source.shop("small", writable=True)
            print(shop.file.parent, flush=True)
            time.sleep(60)
            """
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    place = Path(owner.stdout.readline().strip())
    assert place.is_dir()
    owner.send_signal(sign)
    assert within(60, lambda: not place.exists())
    owner.communicate()


def test_a_product_can_be_added_where_there_was_none(mine):
    assert mine.product(9_999) is None
    assert mine.add_product(9_999, "Brass lamp", 1_250) == 1
    assert mine.product(9_999)["price_cents"] == 1_250
    with pytest.raises(LabError, match="already"):
        mine.add_product(9_999, "Brass lamp", 1_250)


def test_changes_that_cannot_be_made_say_why(small, mine):
    with pytest.raises(LabError, match="writable=True"):
        small.set_price(17, 1)
    with pytest.raises(LabError, match="writable=True"):
        small.add_product(9_999, "Brass lamp", 1_250)
    with pytest.raises(LabError, match="no product"):
        mine.set_price(10**9, 1)


def test_threads_share_a_copy_through_reopen(mine):
    def raise_prices():
        with mine.reopen() as own:
            for _ in range(25):
                own.set_price(1, 500)

    threads = [threading.Thread(target=raise_prices) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.product(1)["version"] == 1 + 4 * 25


# --- Making it under adverse conditions ------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a database", None])
def test_a_damaged_foreign_or_outdated_file_is_made_again(fresh, content):
    file = source.make_database("small")
    good = file.read_bytes()
    if content is None:
        file.write_bytes(good[: len(good) // 2])
    else:
        file.write_bytes(content)
    assert source.make_database("small").read_bytes() == good
    with sqlite3.connect(file) as database:
        database.execute("UPDATE meta SET value = '0' WHERE key = 'schema'")
    database.close()
    assert source.find_database("small") is None
    assert source.make_database("small").read_bytes() == good


@pytest.mark.parametrize("rubbish", [b"\xff", b"\x00", b"\x0d\x00\x31"])
def test_a_damaged_page_inside_is_one_clear_line(fresh, rubbish):
    file = source.make_database("small")
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4 * 4096)  # behind the schema and what says which file it is
        opened.write((rubbish * size)[: size - 4 * 4096])
    asked = {
        "a digest": lambda shop: shop.digest(),
        "the dashboard": lambda shop: shop.dashboard(),
        "a page": lambda shop: shop.product_page(1),
        "the best sellers": lambda shop: shop.best_sellers(1, f"{source.YEAR}-11"),
        "sql": lambda shop: shop.sql("SELECT sum(stars) FROM reviews"),
        "a price": lambda shop: shop.set_price(1, 100),
    }
    with source.shop("small", writable=True) as shop:
        for ask in asked.values():
            with pytest.raises(LabError, match=r"shop-small-.*is damaged.*made again"):
                ask(shop)


def test_a_killed_making_leaves_no_half_file(fresh):
    code = "from redis_lab import source; source.make_database()"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        # Half-way: something has reached the disk, and the whole is 24 MB.
        while sum(f.stat().st_size for f in fresh.rglob("*")) < 1_000_000:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert within(60, lambda: not list(fresh.iterdir())), "not even the half of one"
    assert source.find_database() is None
    assert not source._name_file("default", source.SEED).exists()
    with source.shop() as shop:
        assert shop.count("products") == source.SCALES["default"].products


def test_two_processes_may_make_it_at_once(fresh):
    code = "from redis_lab import source; print(source.shop('small').digest())"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = {child.communicate(timeout=60)[0].strip() for child in children}
    assert digests == {stated("Counts")["digest"]["small"]}
    assert [f.name for f in fresh.iterdir()] == [source.make_database("small").name]


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(LabError, match="REDIS_LAB_DATA"):
        source.make_database("small")


def test_a_full_disk_says_what_to_do_and_leaves_nothing(fresh):
    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    # No compiled modules: the limit would hit their writing too.
    done = in_child(
        "from redis_lab import source; source.make_database('small')",
        preexec_fn=small_disk,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "LabError" in last and "disk space" in last and "REDIS_LAB_DATA" in last
    assert list(fresh.iterdir()) == []


# --- Known gaps: strict, so that a mend shows itself here ------------------------------------


def test_ids_from_a_sample_are_ids(small):
    assert small.product(np.int64(3)) == small.product(3)


def test_sql_refuses_to_write_with_lab_error(small):
    with pytest.raises(LabError):
        small.sql("DELETE FROM users")


def test_sql_only_reads_on_a_copy_too(mine):
    with pytest.raises(LabError):
        mine.sql("UPDATE products SET price_cents = 1 WHERE id = 1")


@pytest.mark.parametrize("price", [-5, "abc"])
def test_a_price_is_a_whole_number_from_0(mine, price):
    with pytest.raises(LabError):
        mine.set_price(2, price)


def test_a_bad_seed_is_a_lab_error(fresh):
    with pytest.raises(LabError):
        source.make_database("small", -1)


def test_a_closed_shop_still_has_a_repr(folder):
    shop = source.shop("small")
    shop.close()
    assert "small" in repr(shop)


def test_a_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.setenv("REDIS_LAB_DATA", str(tmp_path / "C#"))
    try:
        found = source.shop("small").count("users")
    except sqlite3.Error:
        found = None
    assert found == source.SCALES["small"].users


def test_a_forked_child_leaves_the_copy_alone(folder):
    done = in_child(
        "import os, sys\n"
        "from redis_lab import source\n"
        "shop = source.shop('small', writable=True)\n"
        "if (pid := os.fork()) == 0: sys.exit()\n"
        "os.waitpid(pid, 0)\n"
        "sys.exit(not shop.file.exists())\n"
    )
    assert done.returncode == 0
