"""Who may call what: scopes, keys files, Host and Origin, and where the server agrees to listen."""

import asyncio
import hashlib
import hmac
import stat
import tempfile
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.api.keys import NO_KEYS, Keys, check_listening, make_first_key, make_key, read_keys
from service.api.middleware.access import scope_of
from service.app import create_app
from service.errors import SettingsError, UnauthenticatedError
from service.settings import Settings
from tests.bundles import FACTORY, torch_bundle

KEYS = {"k-infer": "infer", "k-read": "read", "k-both": "infer,read", "k-admin": "admin"}
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("access")
    torch_bundle(made / "bundle")
    lines = [f"{digest(key)} {scopes} {key}" for key, scopes in KEYS.items()]
    (made / "keys").write_text("\n".join(lines))
    return made


def app_of(folder, **settings):
    return create_app(
        Settings(
            bundles=(folder / "bundle",),
            data=Path(tempfile.mkdtemp(dir=folder)),
            threads=1,
            allow_factories=(FACTORY,),
            **settings,
        )
    )


@pytest.fixture(scope="module")
def open_app(folder):
    """On loopback, without keys."""
    return app_of(folder)


@pytest.fixture(scope="module")
def keyed_app(folder):
    return app_of(folder, keys_file=folder / "keys", host="0.0.0.0")


def call(app: FastAPI, method, path, **settings):
    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **settings)

    return asyncio.run(send())


def assert_refused(response, status, said):
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2", "infer"),
        ("POST", "/v2/models/m/infer", "infer"),
        ("POST", "/v2/models/m/versions/1/infer", "infer"),
        ("POST", "/v2/repository/index", "infer"),
        ("GET", "/v2/health/ready", None),
        ("GET", "/metrics", "read"),
        ("GET", "/", None),
        ("GET", "/dashboard/main.js", None),
        ("POST", "/dashboard/main.js", "admin"),
        ("POST", "/v1/session", None),
        ("POST", "/v1/sessions", "admin"),
        ("GET", "/docs", "read"),
        ("GET", "/openapi.json", "read"),
        ("HEAD", "/v1/streams", "read"),
        ("GET", "/v1/snapshots/x/download", "read"),
        ("POST", "/v1/streams/s/reset", "admin"),
        ("DELETE", "/v1/streams/v2", "admin"),
        ("PUT", "/unknown", "admin"),
        ("POST", "/v1/v2/health", "admin"),
        ("POST", "//v2/health", "admin"),
        ("POST", "/V2/models/m/infer", "admin"),
        ("POST", "/v2x/anything", "admin"),
        ("POST", "/", "admin"),
    ],
)
def test_scopes_by_method_and_path(method, path, scope):
    assert scope_of(method, path) == scope


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Authorization": "Bearer k-read"}, 200, id="bearer"),
        pytest.param({"Authorization": "bearer   k-read "}, 200, id="bearer_any_case_and_space"),
        pytest.param({"X-API-Key": "k-read"}, 200, id="api_key"),
        pytest.param({"Authorization": "Basic abc", "X-API-Key": "k-read"}, 200, id="api_key_beside_another_scheme"),
        pytest.param({"Authorization": "Bearer k-nope", "X-API-Key": "k-read"}, 401, id="a_wrong_bearer_counts"),
        pytest.param({"Authorization": "k-read"}, 401, id="no_scheme"),
        pytest.param({"Authorization": "Bearer"}, 401, id="no_key"),
        pytest.param({"X-API-Key": ""}, 401, id="empty"),
        pytest.param({"X-API-Key": digest("k-read")}, 401, id="the_digest_is_no_key"),
        pytest.param({"X-API-Key": b"\xe9\xff"}, 401, id="not_ascii"),
        pytest.param({"Cookie": "key=k-read"}, 401, id="cookie"),
    ],
)
def test_keys_are_taken_from_two_headers(keyed_app, headers, status):
    response = call(keyed_app, "GET", "/v1/streams", headers=headers)

    assert response.status_code == status
    if status == 401:
        assert_refused(response, 401, "send ")


def test_a_key_without_the_scope_is_told_what_it_has_and_what_is_needed(keyed_app):
    response = call(keyed_app, "POST", "/v1/streams/s/reset", headers={"X-API-Key": "k-both"})

    assert_refused(response, 403, "the key's scopes are infer, read; this call needs admin")


@pytest.mark.parametrize(
    "host",
    ["evil.com/v2/health/live?", "x/v2/health#", "/v2/health", "x\\v2\\health"],
    ids=["path", "hash", "bare", "back"],
)
def test_a_made_up_host_does_not_pass_for_an_open_path(keyed_app, host):
    response = call(keyed_app, "GET", "/v1/streams", headers={"Host": host})

    assert_refused(response, 400, "expected a name or an address")


def test_with_keys_the_host_may_be_any(keyed_app):
    headers = {"X-API-Key": "k-read", "Host": "acclimate.example.org", "Origin": "https://example.org"}

    assert call(keyed_app, "GET", "/v1/streams", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["key-0", "key-3", "key-6", "key-unknown", ""])
def test_every_known_key_is_compared_in_constant_time(monkeypatch, key):
    keys = Keys({digest(f"key-{number}"): frozenset({"read"}) for number in range(7)}, {})
    compared, compare = [], hmac.compare_digest

    def counted(one, other):
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    if key in {f"key-{number}" for number in range(7)}:
        assert keys.granted(key) == {"read"}
    else:
        with pytest.raises(UnauthenticatedError, match="the key is not known"):
            keys.granted(key)

    assert compared == [(known, digest(key)) for known in keys.scopes]


def test_a_keys_file_may_hold_comments_blank_lines_and_upper_case(tmp_path):
    file = tmp_path / "keys"
    lines = ["# who may call", "", f"{digest('a').upper()} infer,read camera # 7", f"\t{digest('b')}  admin"]
    file.write_text("\n".join(lines))

    keys = read_keys(file)

    assert keys.granted("a") == {"infer", "read"}
    assert keys.granted("b") == {"admin"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("", "holds no key; make one with `acclimate key`", id="empty"),
        pytest.param("# nothing\n\n", "holds no key", id="comments_only"),
        pytest.param("plain-text-key admin", "'plain-text-k'... is no sha256 in hex", id="a_plain_key"),
        pytest.param(f"{digest('a')[:-1]} admin", "is no sha256 in hex", id="too_short"),
        pytest.param(f"{digest('a')[:-1]}g admin", "is no sha256 in hex", id="not_hex"),
        pytest.param(digest("a"), "scopes are '', expected some of infer,read,admin", id="no_scopes"),
        pytest.param(f"{digest('a')} root", "scopes are 'root', expected some of", id="unknown_scope"),
        pytest.param(f"{digest('a')} infer,", "scopes are 'infer,', expected some of", id="comma_at_the_end"),
        pytest.param(f"{digest('a')} Admin", "scopes are 'Admin', expected some of", id="upper_case_scope"),
        pytest.param(f"{digest('a')} admin\nrubbish", "'rubbish'... is no sha256", id="a_wrong_second_line"),
    ],
)
def test_a_wrong_keys_file_is_refused_by_file_and_fault(tmp_path, content, said):
    file = tmp_path / "keys"
    file.write_text(content)

    with pytest.raises(SettingsError) as caught:
        read_keys(file)

    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("missing", "No such file"), (".", "Is a directory")])
def test_a_keys_file_that_cannot_be_read_is_refused(tmp_path, name, said):
    with pytest.raises(SettingsError, match=f"cannot be read: {said}"):
        read_keys(tmp_path / name)


def test_a_server_with_a_wrong_keys_file_does_not_start(folder, tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        app_of(folder, keys_file=tmp_path / "missing")


def test_a_made_key_is_known_by_its_digest_alone(tmp_path):
    key, made = make_key()
    (tmp_path / "keys").write_text(f"{made} infer")

    assert made == digest(key)
    assert len(key) >= 40
    assert make_key()[0] != key
    assert read_keys(tmp_path / "keys").granted(key) == {"infer"}


def test_the_first_key_is_written_once_for_the_owner_alone(tmp_path):
    file = tmp_path / "deep" / "keys"

    key = make_first_key(file)

    assert read_keys(file).granted(key) == {"admin"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    assert make_first_key(file) is None
    assert read_keys(file).granted(key) == {"admin"}


LOOPBACK_HOSTS = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost:80", "[::1]", "[::1]:8000"]
FOREIGN_HOSTS = [
    "evil.com", "127.0.0.1.evil.com", "localhost.evil.com:8000", "evil.com:127", "192.168.0.2:8000", "0.0.0.0", "[::2]",
    "[::ffff:10.0.0.1]",
]  # fmt: skip
MALFORMED_HOSTS = ["[::1", "localhost@evil.com", "127.0.0.1:80@evil.com", "", "::", "evil.com#127.0.0.1"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_without_keys_this_machines_own_names_are_served(open_app, method, host):
    path = {"GET": "/v1/streams", "POST": "/v2/repository/index"}[method]

    assert call(open_app, method, path, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/streams", "/v2", "/metrics", "/docs", "/nowhere"])
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_without_keys_a_foreign_host_is_refused_everywhere(open_app, path, host):
    assert_refused(
        call(open_app, "GET", path, headers={"Host": host}), 403, f"Host is {host!r}, expected a loopback name"
    )


@pytest.mark.parametrize("path", ["/v1/streams", "/v2", "/metrics", "/docs", "/nowhere"])
@pytest.mark.parametrize("host", MALFORMED_HOSTS)
def test_a_host_of_another_form_is_refused_everywhere(open_app, path, host):
    assert_refused(call(open_app, "GET", path, headers={"Host": host}), 400, f"Host is {host!r}, expected a name")


def test_a_long_host_is_told_in_short(open_app):
    response = call(open_app, "GET", "/v2", headers={"Host": "x" * 5000})

    assert response.status_code == 400
    assert len(response.text) < 500


@pytest.mark.parametrize("origin", [None, "http://localhost:8000", "http://127.0.0.1", "https://[::1]:3000"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_without_keys_own_pages_and_programs_may_write(open_app, method, origin):
    path = "/v1/streams/nope/reset" if method == "POST" else "/v1/streams/nope"
    body = {"json": {}} if method == "PATCH" else {}

    response = call(open_app, method, path, headers={"Origin": origin} if origin else {}, **body)

    assert_refused(response, 404, "there is no stream 'nope'")


FOREIGN_ORIGINS = [
    "null", "https://evil.com", "http://127.0.0.1.evil.com", "http://localhost.evil.com:8000", "http://localhost@evil.com",
    "", "file://", "localhost", "http://[::1", "chrome-extension://abcdef",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/streams/s/reset"),
        ("DELETE", "/v1/streams/s"),
        ("PATCH", "/v1/streams/s"),
        ("POST", "/v2/models/reference/infer"),
        ("POST", "/v1/snapshots"),
    ],
    ids=["reset", "delete", "patch", "infer", "upload"],
)
def test_without_keys_a_foreign_page_may_not_write(open_app, method, path, origin):
    response = call(open_app, method, path, headers={"Origin": origin})

    assert_refused(response, 403, f"Origin is {origin!r}: a foreign page may not change streams")


def test_a_foreign_page_may_send_what_changes_nothing_and_gets_no_leave_to_read_it(open_app):
    response = call(open_app, "GET", "/v1/streams", headers={"Origin": "https://evil.com"})

    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/plain;charset=UTF-8", "Text/Plain", "application/x-www-form-urlencoded"],
)
@pytest.mark.parametrize("path", ["/v1/streams", "/v1/streams/s/reset", "/v2/models/reference/infer", "/v1/snapshots"])
def test_what_any_page_may_post_without_asking_is_unsupported(open_app, path, content_type):
    response = call(open_app, "POST", path, content=b'{"mode": "adapt"}', headers={"Content-Type": content_type})

    assert_refused(
        response, 415, f"Content-Type is {content_type.partition(';')[0].lower()}, expected application/json"
    )


def test_an_insecure_server_beyond_loopback_serves_any_host(folder):
    app = app_of(folder, host="0.0.0.0", insecure=True)

    assert call(app, "GET", "/v1/streams", headers={"Host": "example.org"}).status_code == 200


SOME_KEYS = Keys({digest("k"): frozenset({"admin"})}, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
@pytest.mark.parametrize("keys", [NO_KEYS, SOME_KEYS], ids=["no_keys", "keys"])
def test_listening_on_loopback_needs_nothing(host, keys):
    check_listening(host, keys, insecure=False)


BEYOND = ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.evil.com", "localhost.localdomain"]


@pytest.mark.parametrize("host", BEYOND)
def test_listening_beyond_loopback_needs_keys_or_insistence(host):
    with pytest.raises(SettingsError, match=f"refusing to listen on {host} without keys.*--keys-file.*--insecure"):
        check_listening(host, NO_KEYS, insecure=False)

    check_listening(host, SOME_KEYS, insecure=False)
    check_listening(host, NO_KEYS, insecure=True)


def test_the_application_itself_refuses_to_be_built_for_an_open_address(folder):
    with pytest.raises(SettingsError, match=r"refusing to listen on 0\.0\.0\.0"):
        app_of(folder, host="0.0.0.0")
