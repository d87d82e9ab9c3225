"""The router that serves the dashboard's files, and what those files may do."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import service
from service.api import problems
from service.api.routes import dashboard
from service.errors import SettingsError

FOLDER = Path(service.__file__).parent / "dashboard"


def serve(folder):
    """Return a function that asks an application with only the dashboard of a folder."""
    app = FastAPI()
    problems.install(app)
    app.include_router(dashboard.router(folder))

    async def ask(method, path, headers):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers)

    return lambda path, method="GET", **headers: asyncio.run(ask(method, path, headers))


@pytest.fixture(scope="module")
def get():
    return serve(FOLDER)


def test_the_page_is_at_the_root_with_its_headers(get):
    response = get("/")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["content-security-policy"].split("; ") == [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        pytest.param("main.js", "text/javascript; charset=utf-8", id="script"),
        pytest.param("styles/base.css", "text/css; charset=utf-8", id="style"),
        pytest.param("icon.svg", "image/svg+xml", id="picture"),
        pytest.param("vendor/uplot/uPlot.esm.js", "text/javascript; charset=utf-8", id="vendored"),
    ],
)
def test_files_are_served_with_their_media_type_and_the_same_headers(get, path, media_type):
    response = get(f"/dashboard/{path}")

    assert response.status_code == 200
    assert response.content == (FOLDER / path).read_bytes()
    assert response.headers["content-type"] == media_type
    assert {name: response.headers[name] for name in dashboard.HEADERS} == dict(dashboard.HEADERS)


def test_a_browser_that_has_the_file_is_told_so(get):
    etag = get("/").headers["etag"]

    again = get("/", **{"If-None-Match": f'"other", W/{etag}'})
    other = get("/", **{"If-None-Match": '"other"'})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["content-security-policy"] == dashboard.POLICY
    assert other.status_code == 200


def test_head_tells_the_same_without_the_page(get):
    response = get("/", "HEAD")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["etag"] == get("/").headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nothing.js",
        "../__init__.py",
        "..%2f__init__.py",
        "%2e%2e/%2e%2e/pyproject.toml",
        "/etc/passwd",
        "styles",
        "styles/",
        "styles//base.css",
        "MAIN.JS",
        "main.js%00",
        "vendor/uplot/README.md",
        "vendor/uplot/LICENSE",
    ],
)
def test_nothing_but_the_dashboards_files_is_served(get, path):
    response = get(f"/dashboard/{path}")

    assert response.status_code == 404
    assert list(response.json()) == ["error"]


def test_what_is_written_beside_the_page_later_is_not_served(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>")
    get = serve(tmp_path)
    (tmp_path / "late.js").write_text("1")

    assert get("/dashboard/late.js").status_code == 404


def test_a_folder_without_a_page_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"index\.html is missing"):
        dashboard.router(tmp_path)


def test_the_routes_are_no_part_of_the_described_api(get):
    assert get("/openapi.json").json()["paths"] == {}


def own_files(*suffixes):
    return [path for path in sorted(FOLDER.rglob("*")) if path.suffix in suffixes and "vendor" not in path.parts]


def test_every_file_that_the_dashboard_names_is_there(get):
    page = (FOLDER / "index.html").read_text()
    named = re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page)
    imported = [
        (path.parent / name).resolve().relative_to(FOLDER).as_posix()
        for path in own_files(".js")
        for name in re.findall(r'(?:from|import)\s+"(\.[^"]+)"', path.read_text())
    ]

    assert len(named) > 5
    assert len(imported) > 20
    assert [name for name in named if get(f"/{name}").status_code != 200] == []
    assert [name for name in imported if get(f"/dashboard/{name}").status_code != 200] == []


@pytest.mark.parametrize("path", own_files(".html", ".js", ".css", ".svg"), ids=lambda path: path.name)
def test_files_load_nothing_from_elsewhere_and_do_nothing_that_the_policy_forbids(path):
    text = path.read_text()

    assert re.findall(r"https?://(?!www\.w3\.org/)", text.replace("http://localhost", "")) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
    if path.suffix == ".html":
        assert re.findall(r"\s(?:style|on\w+)=|<style|<script(?![^>]* src=)", text) == []


@pytest.mark.parametrize("path", own_files(".js"), ids=lambda path: path.name)
def test_scripts_are_small_and_say_first_what_they_are_for(path):
    lines = path.read_text().splitlines()

    assert lines[0].startswith("/** ")
    assert lines[0].endswith(". */")
    assert len(lines) <= 300


def test_every_kind_of_event_has_a_word_and_a_sign_on_the_page():
    code = [path.read_text() for path in FOLDER.parent.rglob("*.py")]
    told = {kind for text in code for kind in re.findall(r'Happening\("(\w+)"', text)}
    listed = re.search(r"KINDS = \{(.*?)\n\};", (FOLDER / "eventlist.js").read_text(), re.DOTALL)[1]
    signs = dict(re.findall(r'(\w+): \{ word: "[A-Z][\w ]+", sign: "(\w+)"', listed))

    assert {"created", "guard", "snapshot_deleted"} <= told <= signs.keys()
    icons = (FOLDER / "icons.js").read_text()
    assert all(re.search(rf"\b{sign}:", icons) for sign in signs.values())
