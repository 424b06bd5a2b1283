"""The way to a target apart from its server: name, TCP, tunnel, TLS and one HTTP round trip, beside the load and on a connection of its own.

The round trip is a HEAD of the list of models, which nobody bills: any status is an answer. It is stamped as a reply is, from just
before the send to the kernel's stamp of the first byte, so that it can be held against TTFT: what stands between is the same path,
without a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.base import clock
from harness.measure.drive import dialect, wire
from harness.measure.drive.connections import ConnectFailedError, Connections
from harness.measure.drive.http1 import HttpError, Response
from harness.measure.drive.places import places_in
from harness.measure.drive.proxy import of_target
from harness.measure.drive.reader import make_poll
from harness.measure.drive.request_head import request_head
from harness.records import Endpoint, NetworkSample

_LIMIT_NS = 4 * clock.NS  # of one sample: a way that takes longer is told as an error
_OUT = 4  # EPOLLOUT
_NOTHING = NetworkSample(0, None, None, None, None, None, None, None, None)


class _FailedError(Exception):
    """Why there is no round trip."""


class NetworkSource:
    """A source of the sampler: at an edge everything anew, between them a round trip on the connection that stands, if it still does."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = replace(endpoint, connections="kept")
        self._head = request_head(self._endpoint, "HEAD", "/models") + b"\r\n"
        self._proxy = of_target(endpoint.base_url, endpoint.proxy_env)
        self._poll = make_poll()
        self._connections = Connections(
            endpoint.base_url, endpoint.ca_file, self._poll, kernel_stamps=True, proxy=self._proxy
        )
        self._places: Counter[tuple[str, str]] = Counter()
        self._answers = 0

    def read(self, edge: str | None) -> Sequence[NetworkSample]:
        """One sample; what went wrong is its `error`."""
        give_up_ns = clock.monotonic_ns() + _LIMIT_NS
        sample = replace(_NOTHING, edge=edge)
        conn = self._standing(fresh=edge is not None)
        try:
            if conn is None:
                sample, conn = self._opened(sample, give_up_ns)
            return [self._round_trip(sample, conn, give_up_ns)]
        except (_FailedError, ConnectFailedError, HttpError, OSError) as error:
            self._drop_all()
            why = dialect.clean_error(error, self._endpoint.api_key)
            return [replace(sample, stamp_ns=clock.monotonic_ns(), error=why)]

    def about(self) -> str:
        return f"HEAD {self._endpoint.base_url}/models" + (f" through proxy {self._proxy.name}" if self._proxy else "")

    def complaint(self) -> str | None:
        return None if self._answers else "no round trip was answered"

    def facts(self) -> Mapping[str, Any]:
        places = {f"{name}: {place}": count for (name, place), count in self._places.items()}
        return {"proxy": self._proxy.name if self._proxy else None, "places": places}

    def close(self) -> None:
        self._drop_all()
        if hasattr(self._poll, "close"):
            self._poll.close()

    # ------------------------------------------------------------ a connection

    def _standing(self, *, fresh: bool) -> wire.Conn | None:
        """The connection of the last sample, unless the other side has ended it."""
        conn = self._connections.take_idle()
        if conn is None or (not fresh and not wire.something_waits(conn)):
            return conn
        self._connections.drop(conn, hard=False)
        return None

    def _drop_all(self) -> None:
        for conn in list(self._connections.by_fd.values()):
            self._connections.drop(conn, hard=False)

    def _opened(self, sample: NetworkSample, give_up_ns: int) -> tuple[NetworkSample, wire.Conn]:
        """A new connection, and what each step to it took. Raises _FailedError, ConnectFailedError, OSError."""
        connections = self._connections
        begun_ns = clock.monotonic_ns()
        connections.resolve()
        named_ns = clock.monotonic_ns()
        if not connections.addresses:
            raise _FailedError(connections.resolve_error)
        sample = replace(sample, dns_s=(named_ns - begun_ns) / clock.NS)
        for address_at in range(len(connections.addresses)):
            try:
                return self._connected(sample, connections.open(address_at), give_up_ns)
            except ConnectFailedError as error:
                self._drop_all()
                if not error.try_next or address_at + 1 == len(connections.addresses):
                    raise
        raise AssertionError

    def _connected(self, sample: NetworkSample, conn: wire.Conn, give_up_ns: int) -> tuple[NetworkSample, wire.Conn]:
        tunnels, tunnel_ns = conn.tunnel is not None, 0
        event = self._wait(give_up_ns)
        while not self._connections.advance(conn, readable=bool(event & ~_OUT)):
            if tunnels and conn.tunnel is None and not tunnel_ns:
                tunnel_ns = clock.monotonic_ns()
            event = self._wait(give_up_ns)
        self._connections.take_idle()
        begun_ns = tunnel_ns or conn.connect_ns
        return replace(
            sample,
            tcp_s=(conn.connect_ns - conn.connect_started_ns) / clock.NS,
            tunnel_s=(tunnel_ns - conn.connect_ns) / clock.NS if tunnels else None,
            tls_s=(conn.tls_ns - begun_ns) / clock.NS if conn.tls is not None else None,
        ), conn

    def _wait(self, give_up_ns: int) -> int:
        """The next event of the one connection there is. Raises _FailedError."""
        while (left_ns := give_up_ns - clock.monotonic_ns()) > 0:
            for _, event in self._poll.poll(left_ns / clock.NS):
                return int(event)
        raise _FailedError(f"no answer within {_LIMIT_NS / clock.NS:g} s")

    # ------------------------------------------------------------ a round trip

    def _round_trip(self, sample: NetworkSample, conn: wire.Conn, give_up_ns: int) -> NetworkSample:
        """Raises _FailedError, HttpError, OSError."""
        wire.begin_send(conn, self._head, memoryview(b""))
        while not wire.send_more(conn):
            self._connections.watch_out(conn, wanted=True)
            self._wait(give_up_ns)
        self._connections.watch_out(conn, wanted=False)
        response, first_ns = Response(bodiless=True), 0
        while not response.complete:
            self._wait(give_up_ns)
            try:
                data, ancillary, *_ = conn.recv(wire.RECV_BYTES, wire.ANCILLARY_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise _FailedError("the connection was closed before an answer")
            first_ns = first_ns or _stamp_ns(ancillary)
            response.feed(data)
        trip_s = (first_ns - conn.sent_ns) / clock.NS  # before `keep` forgets it
        self._answers += 1
        self._places.update(places_in(response.headers).items())
        if response.reusable:
            self._connections.keep(conn)
        else:
            self._connections.drop(conn, hard=False)
        return replace(sample, stamp_ns=first_ns, round_trip_s=trip_s, http_status=response.status)


def _stamp_ns(ancillary: Any) -> int:
    """CLOCK_MONOTONIC of a read by the kernel's stamp; without one, now."""
    if not ancillary:
        return clock.monotonic_ns()
    seconds, nanos = wire.TIMESPEC.unpack(ancillary[0][2])
    if seconds == wire.USER_STAMP_SECONDS:
        return int(nanos)
    return int(seconds * clock.NS + nanos - clock.anchor().offset_ns)
