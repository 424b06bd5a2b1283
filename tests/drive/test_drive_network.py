"""The way to a target beside its load: what each step took, on a connection of its own, through TLS and a proxy."""

from __future__ import annotations

import pytest

from harness.measure.drive.network import NetworkSource
from harness.measure.drive.places import places_in
from harness.records import Endpoint
from tests.fakes.certificates import certificate as make_certificate
from tests.fakes.certificates import server_context
from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
KEY = "sk-of-the-api-1234"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def there(sample) -> set[str]:
    """The steps that a sample has."""
    return {
        name for name in ("dns_s", "tcp_s", "tunnel_s", "tls_s", "round_trip_s") if getattr(sample, name) is not None
    }


def test_edges_are_anew_and_between_them_one_connection_is_kept():
    """At the edges name, TCP and round trip; between them round trips alone, on the connection of the edge before; nothing is billed."""
    with GoldenServer(api_keys=(KEY,)) as server:
        source = NetworkSource(Endpoint(server.url, "golden", "chat", KEY))
        samples = [source.read(edge)[0] for edge in ("start", None, None, "end")]
        source.close()
        assert (server.connections, len(server.log)) == (2, 0)
    everything = {"dns_s", "tcp_s", "round_trip_s"}
    assert [there(sample) for sample in samples] == [everything, {"round_trip_s"}, {"round_trip_s"}, everything]
    assert {sample.http_status for sample in samples} == {200}
    assert all(sample.round_trip_s > 0 for sample in samples)
    assert [sample.stamp_ns for sample in samples] == sorted(sample.stamp_ns for sample in samples)


def test_tunnel_and_tls_are_steps_of_their_own(certificate, monkeypatch):
    """Through a proxy to TLS: every step is there at the edge, and the facts name the proxy without its password."""
    cert, key = certificate
    with GoldenServer(tls=server_context(cert, key)) as server, ConnectProxy("me", "pa55-of-it") as proxy:
        monkeypatch.setenv("MINE", proxy.url_with_password)
        source = NetworkSource(Endpoint(server.url, "m", "chat", KEY, ca_file=str(cert), proxy_env="MINE"))
        first, second = source.read("start")[0], source.read(None)[0]
        source.close()
    assert there(first) == {"dns_s", "tcp_s", "tunnel_s", "tls_s", "round_trip_s"}
    assert there(second) == {"round_trip_s"}
    assert source.facts()["proxy"] == proxy.url.removeprefix("http://")
    assert "pa55" not in f"{source.facts()} {source.about()}"


def test_a_connection_that_the_server_closed_is_made_again():
    """A server that closes after each answer: every sample has its TCP step, none fails."""
    with GoldenServer(close_after=1) as server:
        source = NetworkSource(Endpoint(server.url, "m", "chat"))
        source.read("start")
        server_side = [source.read(None)[0] for _ in range(2)]
        source.close()
    assert [sample.error for sample in server_side] == [None, None]


def test_no_way_is_a_row_with_the_reason():
    """A server that is gone, and a name that nobody knows: rows with an error, and no round trip."""
    with GoldenServer() as server:
        source = NetworkSource(Endpoint(server.url, "m", "chat"))
    gone = source.read("end")[0]
    unknown = NetworkSource(Endpoint("http://no-such-host.invalid/v1", "m", "chat")).read("start")[0]
    assert gone.round_trip_s is None
    assert "refused" in gone.error
    assert "name resolution" in unknown.error
    assert source.complaint() == "no round trip was answered"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"cf-ray": "8f1a2b3c4d5e6f70-FRA"}, {"cf-ray": "FRA"}),
        ({"cf-ray": "8f1a2b3c4d5e6f70"}, {}),
        ({"x-ms-region": "Sweden Central"}, {"x-ms-region": "Sweden Central"}),
        ({"x-vercel-id": "fra1::iad1::abcde-1700000000000-0123456789ab"}, {"x-vercel-id": "fra1 iad1"}),
        ({"x-served-by": "cache-fra-etou8220021-FRA"}, {"x-served-by": "FRA"}),
        ({"x-served-by": "host-12345"}, {}),
        ({"x-amz-cf-pop": "FRA56-P5", "server": "x"}, {"x-amz-cf-pop": "FRA56-P5"}),
        ({"x-ms-region": "<script>" + "a" * 90}, {}),
    ],
    ids=["cloudflare", "no_place", "azure", "vercel", "fastly", "a_host", "cloudfront", "not_a_place"],
)
def test_places(headers, expected):
    """Where a reply came from, without what numbers the request."""
    assert places_in(headers) == expected
