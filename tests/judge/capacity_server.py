"""Simulated servers whose capacity is known, streamed to a Watch in the order in which replies end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import lognorm

from harness.judge.capacity.orders import ProbeOrder
from harness.judge.capacity.probe import Reply, Watch
from harness.records import ProbeResult

Served = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # TTFT, end, TPOT in seconds; output tokens
Server = Callable[[np.ndarray], Served]  # of arrivals
SLICE_S = 1.0  # of simulated time between two looks at the watch
OUTPUT_TOKENS = 32
TOKEN_S = 0.00125  # of the work of a single queue: as many tokens in 40 ms


def fifo(service_s: float) -> Server:
    """One request at a time, a fixed time each: with Poisson arrivals M/D/1. Lindley's recursion as a running minimum."""

    def serve(arrivals: np.ndarray) -> Served:
        steps = np.concatenate(([0.0], np.cumsum(service_s - np.diff(arrivals))))
        ttft = steps - np.minimum.accumulate(steps) + service_s
        return ttft, arrivals + ttft, np.zeros(len(arrivals)), np.full(len(arrivals), OUTPUT_TOKENS)

    return serve


def queue(draw_s: Callable[[np.random.Generator, int], np.ndarray]) -> Server:
    """One request at a time, service times drawn by `draw_s`; equal arrivals are served alike. A reply has a token for every
    `TOKEN_S` of its service."""

    def serve(arrivals: np.ndarray) -> Served:
        service = draw_s(np.random.default_rng(int(arrivals[-1] * 1e9)), len(arrivals))
        steps = np.concatenate(([0.0], np.cumsum(service[:-1] - np.diff(arrivals))))
        ttft = steps - np.minimum.accumulate(steps) + service
        return ttft, arrivals + ttft, np.zeros(len(arrivals)), np.ceil(service / TOKEN_S).astype(np.int64)

    return serve


def exponential(service_s: float) -> Server:
    """M/M/1."""
    return queue(lambda rng, n: rng.exponential(service_s, n))


def mm1_capacity(service_s: float, ttft_limit_s: float, attainment: float) -> float:
    """Rate at which P(wait + service <= limit) is the target: 1 - exp(-(1 / service - rate) limit)."""
    return 1 / service_s + math.log(1 - attainment) / ttft_limit_s


def lognormal(service_s: float, cv: float) -> Server:
    """Service times with a long tail: `cv` is their standard deviation over their mean."""
    sigma = math.sqrt(math.log(1 + cv * cv))
    return queue(lambda rng, n: service_s * np.exp(rng.normal(-sigma * sigma / 2, sigma, n)))


def lognormal_cdf(service_s: float, cv: float) -> Callable[[np.ndarray], np.ndarray]:
    sigma = math.sqrt(math.log(1 + cv * cv))
    return lambda t_s: lognorm.cdf(t_s, sigma, scale=service_s * math.exp(-sigma * sigma / 2))


def mg1_met(
    rate: float, service_s: float, cdf: Callable[[np.ndarray], np.ndarray], limit_s: float, parts: int = 2000
) -> float:
    """P(wait + service <= limit) of M/G/1, on a grid of limit / `parts`.

    The wait is a geometric sum of residual services (Pollaczek-Khinchine): w = 1 - load + load (residual * w).
    """
    load = rate * service_s
    edges = (np.arange(parts + 1) + 0.5) * limit_s / parts
    fine = np.linspace(0, edges[-1], 10 * (2 * parts + 1) + 1)
    left = 1 - cdf(fine)
    residual_cdf = np.concatenate(([0.0], np.cumsum(left[1:] + left[:-1]))) * fine[1] / 2 / service_s
    residual = np.diff(np.interp(edges, fine, residual_cdf), prepend=0.0)
    wait = lfilter([1 - load], np.eye(1, parts + 1)[0] - load * residual, np.eye(1, parts + 1)[0])
    stay = np.convolve(wait, np.diff(cdf(edges), prepend=0.0))[: parts + 1]
    return float(stay[:-1].sum() + stay[-1] / 2)


def mg1_capacity(
    service_s: float, cdf: Callable[[np.ndarray], np.ndarray], ttft_limit_s: float, attainment: float
) -> float:
    """Rate at which P(wait + service <= limit) is the target."""
    found = brentq(
        lambda rate: mg1_met(rate, service_s, cdf, ttft_limit_s) - attainment, 0.01 / service_s, 0.999 / service_s
    )
    return float(found)


def md1_wait_cdf(rate: float, service_s: float, x_s: float) -> float:
    """P(wait <= x) of M/D/1 (Erlang, 1909)."""
    k = np.arange(int(x_s / service_s) + 1)
    terms = [(rate * (i * service_s - x_s)) ** int(i) / math.factorial(int(i)) for i in k]
    return (1 - rate * service_s) * float(np.sum(terms * np.exp(-rate * (k * service_s - x_s))))


def md1_capacity(service_s: float, ttft_limit_s: float, attainment: float) -> float:
    """Rate at which P(wait + service <= limit) is the target."""
    return float(
        brentq(
            lambda rate: md1_wait_cdf(rate, service_s, ttft_limit_s - service_s) - attainment,
            0.01 / service_s,
            0.9999 / service_s,
        )
    )


def batching(step_s: float, per_request_s: float, most: int, tokens: int = OUTPUT_TOKENS) -> Server:
    """Continuous batching: a step takes step_s + per_request_s x running and gives each running request a token; at most
    `most` run, the rest wait in order."""

    def serve(arrivals: np.ndarray) -> Served:
        n = len(arrivals)
        first, end = np.zeros(n), np.zeros(n)
        running: deque[tuple[int, int]] = deque()  # (request, step at which it ends): equal lengths end in order
        now, step, coming = 0.0, 0, 0
        while coming < n or running:
            if not running:
                now = max(now, arrivals[coming])
            joined = coming
            while coming < n and len(running) < most and arrivals[coming] <= now:
                running.append((coming, step + tokens))
                coming += 1
            now += step_s + per_request_s * len(running)
            step += 1
            first[joined:coming] = now
            while running and running[0][1] == step:
                end[running.popleft()[0]] = now
        return first - arrivals, end, (end - first) / (tokens - 1), np.full(n, tokens)

    return serve


def probe(
    server: Server, seed: int, ttft_limit_s: float, tpot_limit_s: float = math.inf
) -> Callable[[ProbeOrder, Watch], ProbeResult]:
    """A probe of search_capacity against a simulated server: Poisson arrivals, replies given as they end, a slice of
    simulated time at once, until the watch decides or the plan is over."""

    def make(order: ProbeOrder, watch: Watch) -> ProbeResult:
        rng = np.random.default_rng((seed, order.index))
        count = int(order.rate_rps * order.longest_s + 8 * math.sqrt(order.rate_rps * order.longest_s)) + 8
        arrivals = np.cumsum(rng.exponential(1 / order.rate_rps, count))
        arrivals = arrivals[arrivals < order.longest_s]
        ttft, end, tpot, tokens = server(arrivals)
        good = (ttft <= ttft_limit_s) & (tpot <= tpot_limit_s)
        by_end = np.argsort(end, kind="stable")
        edges = np.searchsorted(end[by_end], np.arange(SLICE_S, end.max() + SLICE_S, SLICE_S), side="right")
        at_ns, end_ns = (arrivals * 1e9).astype(np.int64).tolist(), (end * 1e9).astype(np.int64).tolist()
        ttft, good, tokens = ttft.tolist(), good.tolist(), tokens.tolist()
        done = 0
        for edge in [*edges.tolist(), len(by_end)]:
            part = by_end[done:edge].tolist()
            done = edge
            watch.add(Reply(i, at_ns[i], end_ns[i], good[i], ttft[i], tokens[i], ok=True) for i in part)
            if watch.decide() is not None:
                break
        return watch.result(order.index)

    return make
