"""The way to a target: through a proxy or directly, over connections that are kept or fresh."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.measure.drive import proxy as proxies
from tests.drive.offering import offer
from tests.fakes.certificates import certificate as make_certificate
from tests.fakes.certificates import server_context
from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
DRIVERS = ("wire", "sdk")
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PASSWORD = "pa55-of-the-proxy"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def environment(monkeypatch):
    """Without proxies; sets one."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("driver", DRIVERS)
def test_tls_goes_through_a_tunnel(certificate, environment, driver):
    """An https target behind a proxy that wants a password: every reply is whole and came through CONNECT tunnels, whose proxy never
    saw the key."""
    cert, key = certificate
    with GoldenServer(0.005, 0.001, tls=server_context(cert, key)) as server, ConnectProxy("me", PASSWORD) as proxy:
        environment.setenv("MY_PROXY", proxy.url_with_password)
        rows, _ = offer(
            server.url,
            8,
            concurrency=2,
            ca_file=str(cert),
            proxy_env="MY_PROXY",
            driver=driver,
            api_key="sk-of-the-api",
        )
    assert [row.outcome for row in rows] == ["ok"] * 8
    assert {len(row.chunk_ns) for row in rows} == {10}
    assert {head.split("\r\n")[0] for head in proxy.heads} == {f"CONNECT localhost:{server.port} HTTP/1.1"}
    assert not any("sk-of-the-api" in head for head in proxy.heads)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_plain_request_names_the_whole_url(environment, driver):
    """An http target behind a proxy: requests ask for the whole URL, with the proxy's password and the API's key."""
    with GoldenServer(0.005, 0.001) as server, ConnectProxy("me", PASSWORD) as proxy:
        environment.setenv("MY_PROXY", proxy.url_with_password)
        rows, _ = offer(server.url, 4, concurrency=2, proxy_env="MY_PROXY", driver=driver)
    assert [row.outcome for row in rows] == ["ok"] * 4
    assert all(head.startswith(f"POST {server.url}/completions HTTP/1.1") for head in proxy.heads)


def test_a_proxy_that_refuses_is_an_outcome(certificate, environment):
    """A proxy with another password: every request is connect_error with its status, and nothing has the password."""
    cert, key = certificate
    with GoldenServer(tls=server_context(cert, key)) as server, ConnectProxy("me", "another") as proxy:
        environment.setenv("MY_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
        rows, report = offer(server.url, 3, concurrency=1, ca_file=str(cert), proxy_env="MY_PROXY")
    assert [row.outcome for row in rows] == ["connect_error"] * 3
    assert "407" in rows[0].error
    assert f"127.0.0.1:{proxy.port}" in rows[0].error
    assert PASSWORD not in f"{rows} {report}"
    assert server.log == {}


def test_loopback_needs_no_proxy(environment):
    """The environment's proxy is not asked for a server on this machine."""
    with GoldenServer(0.005, 0.001) as server, ConnectProxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment.setenv(name, proxy.url)
        rows, _ = offer(server.url, 2, concurrency=1)
    assert [row.outcome for row in rows] == ["ok"] * 2
    assert proxy.heads == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_fresh_connections_are_one_a_request(driver):
    """connections: fresh: every request came on a connection of its own, and none was used twice."""
    with GoldenServer(0.005, 0.001) as server:
        rows, _ = offer(server.url, 9, concurrency=3, connections="fresh", driver=driver)
        assert [row.outcome for row in rows] == ["ok"] * 9
        assert sorted(served.connection for served in server.log.values()) == list(range(1, 10))
        if driver == "wire":
            assert {row.connection_reused for row in rows} == {False}
            assert all(row.connect_started_ns < row.connect_ns <= row.sent_ns for row in rows)


def test_the_environments_ca_file_is_trusted(certificate, environment):
    """SSL_CERT_FILE names the CA of an API whose target has no ca_file."""
    cert, key = certificate
    environment.setenv("SSL_CERT_FILE", str(cert))
    with GoldenServer(0.005, 0.001, tls=server_context(cert, key)) as server:
        rows, _ = offer(server.url, 2, concurrency=1)
    assert [row.outcome for row in rows] == ["ok"] * 2


# ---------------------------------------------------------------- which proxy


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({"HTTPS_PROXY": "http://p:3128"}, "https://api.example.com/v1", ("p", 3128)),
        ({"https_proxy": "p:3128"}, "https://api.example.com/v1", ("p", 3128)),
        ({"HTTP_PROXY": "http://p:3128"}, "https://api.example.com/v1", None),
        ({"http_proxy": "http://p"}, "http://api.example.com/v1", ("p", 80)),
        ({"ALL_PROXY": "http://p:1"}, "https://api.example.com/v1", ("p", 1)),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.com"}, "https://api.example.com/v1", None),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "other.com"}, "https://api.example.com/v1", ("p", 3128)),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, "https://api.example.com/v1", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://127.0.0.1/v1", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://localhost:8443/v1", None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http+unix://%2Ftmp%2Fs/v1", None),
        ({"HTTPS_PROXY": ""}, "https://api.example.com/v1", None),
    ],
    ids=["https", "lower_case", "http_only", "http", "all", "no_proxy", "no_proxy_other", "no_proxy_star", "loopback",
         "localhost", "unix", "empty"],
)  # fmt: skip
def test_which_proxy(environment, variables, url, expected):
    """The usual variables in their usual meaning; never for loopback."""
    for name, value in variables.items():
        environment.setenv(name, value)
    found = proxies.of_target(url)
    assert (None if found is None else (found.host, found.port)) == expected


def test_proxy_env_counts_for_loopback_and_over_no_proxy(environment):
    """A target's own proxy is meant."""
    environment.setenv("NO_PROXY", "*")
    environment.setenv("MINE", f"http://me:{PASSWORD}@p:3128")
    found = proxies.of_target("http://127.0.0.1:8000/v1", "MINE")
    assert (found.host, found.port) == ("p", 3128)
    assert PASSWORD not in repr(found)
    assert found.authorization not in repr(found)


@pytest.mark.parametrize("value", ["socks5://p:1080", "https://p:443", "http://", "http://p:port"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_value(environment, value):
    """Another kind of proxy, or none at all in the URL: a ConfigError that names the variable and has no password."""
    environment.setenv("MINE", value.replace("//", f"//me:{PASSWORD}@") if "p" in value[5:] else value)
    with pytest.raises(ConfigError) as refused:
        proxies.of_target("https://api.example.com/v1", "MINE")
    assert "MINE" in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_a_proxy_variable_that_is_not_set(environment):
    """proxy_env without its variable is refused before anything is sent."""
    environment.delenv("MINE", raising=False)
    with pytest.raises(ConfigError, match="MINE"):
        proxies.of_target("https://api.example.com/v1", "MINE")
