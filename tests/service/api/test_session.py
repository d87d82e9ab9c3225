"""Sessions of the dashboard: a key becomes a cookie that serves this site's pages alone, until it ends."""

from hashlib import sha256
from types import SimpleNamespace

import pytest

from service.api import sessions as sessions_module
from service.api.sessions import COOKIE, Sessions
from tests.applications import application, assert_error
from tests.bundles import torch_bundle

KEY, READER = "the-admin-key", "the-reader-key"
HOME = "http://127.0.0.1"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    lines = [f"{sha256(key.encode()).hexdigest()} {scope} name" for key, scope in ((KEY, "admin"), (READER, "read"))]
    (folder / "keys").write_text("\n".join(lines))
    with application(folder, torch_bundle(folder / "reference"), keys_file=folder / "keys") as running:
        yield running


@pytest.fixture(autouse=True)
def without_cookies(api):
    api._client.cookies.clear()


def log_in(api, key=KEY, **headers):
    response = api("POST", "/v1/session", json={"key": key}, headers=headers)
    api._client.cookies.clear()  # each test sends the cookie itself
    return response


def token(response):
    return response.cookies[COOKIE]


def with_cookie(value, **headers):
    return {"Cookie": f"{COOKIE}={value}", **headers}


def test_a_key_is_exchanged_for_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_use(api):
    response = log_in(api)

    assert response.status_code == 204
    attributes = response.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={12 * 3600}"} <= set(attributes)
    assert "Secure" not in attributes
    assert KEY not in response.headers["set-cookie"]


def test_over_https_the_cookie_is_for_https_alone(api):
    response = api("POST", "https://127.0.0.1/v1/session", json={"key": KEY})

    assert "Secure" in response.headers["set-cookie"].split("; ")


def test_the_cookie_reads_as_the_key_does_and_without_it_nothing_is_read(api):
    cookie = token(log_in(api))

    assert api("GET", "/v1/overview", headers=with_cookie(cookie)).status_code == 200
    assert_error(api("GET", "/v1/overview"), 401, "a key is needed")
    assert_error(api("GET", "/v1/overview", headers=with_cookie("made-up")), 401, "a key is needed")


def test_the_cookie_has_the_scopes_of_its_key(api):
    admin, reader = (token(log_in(api, key)) for key in (KEY, READER))

    made = api("POST", "/v1/streams", json={}, headers=with_cookie(admin, Origin=HOME))
    refused = api("POST", "/v1/streams", json={}, headers=with_cookie(reader, Origin=HOME))

    assert made.status_code == 201
    assert_error(refused, 403, "this call needs admin")
    assert api("GET", "/v1/streams", headers=with_cookie(reader)).status_code == 200


FOREIGN = ["http://evil.example", "null", "http://127.0.0.1:8080", "http://127.0.0.1.evil.example", "http://[", "x", ""]


@pytest.mark.parametrize("origin", FOREIGN)
def test_from_another_sites_page_the_cookie_is_worth_nothing(api, origin):
    cookie = token(log_in(api))

    for method, path in (("GET", "/v1/streams"), ("POST", "/v1/streams")):
        assert_error(api(method, path, headers=with_cookie(cookie, Origin=origin)), 401, "a key is needed")


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_sites_page_cannot_log_in_here(api, origin):
    response = log_in(api, Origin=origin)

    assert_error(response, 403, "another site")
    assert "set-cookie" not in response.headers


def test_this_sites_page_logs_in(api):
    assert log_in(api, Origin=HOME).status_code == 204


def test_after_logging_out_the_cookie_is_refused_and_other_sessions_go_on(api):
    ended, other = token(log_in(api)), token(log_in(api))

    response = api("DELETE", "/v1/session", headers=with_cookie(ended))

    assert response.status_code == 204
    assert f'{COOKIE}=""' in response.headers["set-cookie"]
    assert_error(api("GET", "/v1/streams", headers=with_cookie(ended)), 401, "a key is needed")
    assert api("GET", "/v1/streams", headers=with_cookie(other)).status_code == 200


def test_logging_out_without_a_session_changes_nothing(api):
    assert api("DELETE", "/v1/session").status_code == 204


def test_an_unknown_key_gets_no_session(api):
    response = log_in(api, "guessed")

    assert_error(response, 401, "not known")
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": "x" * 513}, {"key": 7}, {"key": KEY, "more": 1}])
def test_a_log_in_of_another_form_is_refused(api, body):
    assert api("POST", "/v1/session", json=body).status_code == 422


def test_without_keys_the_page_logs_in_as_well(tmp_path):
    with application(tmp_path, torch_bundle(tmp_path / "reference")) as open_to_all:
        response = open_to_all("POST", "/v1/session", json={"key": "anything"})

        assert response.status_code == 204
        assert open_to_all("GET", "/v1/overview").status_code == 200


def asking(value):
    return SimpleNamespace(cookies={COOKIE: value}, headers={})


def test_a_session_ends_by_itself(monkeypatch):
    sessions, now = Sessions(), [1000.0]
    monkeypatch.setattr(sessions_module.time, "time", lambda: now[0])
    begun = sessions.begin(KEY)
    now[0] += sessions_module.SESSION_SECONDS - 1

    assert sessions.digest(asking(begun)) == sha256(KEY.encode()).hexdigest()
    now[0] += 1
    assert sessions.digest(asking(begun)) == ""


def test_of_too_many_sessions_the_oldest_end(monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 3)
    sessions = Sessions()

    begun = [sessions.begin(str(number)) for number in range(5)]

    assert [sessions.digest(asking(each)) for each in begun] == [
        "",
        "",
        *(sha256(number.encode()).hexdigest() for number in "234"),
    ]
    assert len(set(begun)) == 5


def test_sessions_survive_a_restart_in_a_file_for_the_owner_alone_that_holds_neither_key_nor_token(tmp_path):
    file = tmp_path / "sessions.json"
    begun = Sessions(file).begin(KEY)

    again = Sessions(file)

    assert again.digest(asking(begun)) == sha256(KEY.encode()).hexdigest()
    assert file.stat().st_mode & 0o777 == 0o600
    assert KEY not in file.read_text()
    assert begun not in file.read_text()
    again.end(begun)
    assert Sessions(file).digest(asking(begun)) == ""


def test_a_damaged_file_of_sessions_signs_everybody_out(tmp_path):
    (tmp_path / "sessions.json").write_text("{")

    assert Sessions(tmp_path / "sessions.json").digest(asking("anything")) == ""


def test_a_key_that_may_not_read_is_told_so_when_it_logs_in(tmp_path):
    lines = [f"{sha256(KEY.encode()).hexdigest()} infer camera"]
    (tmp_path / "keys").write_text("\n".join(lines))
    with application(tmp_path, torch_bundle(tmp_path / "reference"), keys_file=tmp_path / "keys") as sender:
        assert_error(
            sender("POST", "/v1/session", json={"key": KEY}), 403, "scopes are infer; the dashboard needs one with read"
        )


def test_the_page_learns_what_its_session_may_do(api):
    scopes = [
        api("GET", "/v1/session", headers=with_cookie(token(log_in(api, key)))).json()["scopes"]
        for key in (KEY, READER)
    ]

    assert scopes == [["admin"], ["read"]]
    assert api("GET", "/v1/session").json()["scopes"] == []
