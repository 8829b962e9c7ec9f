"""Work given to a Ray cluster. The only module that knows Ray; it is imported when a cluster is asked for.

Every machine of the cluster needs d3d-edge installed, and the paths of videos and cache must mean the same files on
all of them (a shared file system).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from d3d_edge.errors import D3DEdgeError, DeviceError, MissingDependency

_PATIENCE_S = 10
_AHEAD = 4
"""Pieces of work given out for each processor of the cluster, so that none waits and memory stays small."""


@contextmanager
def ray_mapper(
    address: str, workers: int, *, prepare: Callable[[], None], died: D3DEdgeError
) -> Iterator[Callable[..., Any]]:
    """Yield a `map` whose work is done by the Ray cluster at `address`; empty: by `workers` processes started here.

    Raises:
        MissingDependency: Ray is not installed.
        DeviceError: there is no cluster at `address`.
        D3DEdgeError: `died`, when a process of the cluster died and doing its work again did not help.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise MissingDependency.of("ray", "cluster", "the engine ray") from error
    _check_reachable(address)
    place = {"address": address} if address else {"num_cpus": max(workers, 1), "include_dashboard": False}
    try:
        ray.init(**place, log_to_driver=False, logging_level="error", configure_logging=False)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address or "on this machine", error) from error
    try:
        call = ray.remote(_call)
        ahead = _AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)

        def mapped(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Any] = deque()
            for item in items:
                waiting.append(call.remote(prepare, work, item))
                if len(waiting) >= ahead:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())

        yield mapped
    except RayTaskError as error:
        # What the work raised comes wrapped, with the trace of the other machine.
        raise error.cause from error
    except RayError as error:
        raise died from error
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray ends the whole program when nobody answers at HOST:PORT, so that is tried first."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # 'auto' and such: Ray finds the place, or says that it cannot
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> DeviceError:
    reason = " ".join(str(error).split())[:200]
    return DeviceError(
        f"cannot join the Ray cluster {address}: {reason}", hint="ray start --head starts one, and prints its address"
    )


def _call(prepare: Callable[[], None], work: Callable[[Any], Any], item: Any) -> Any:
    prepare()  # here, since Ray starts and ends its processes as it likes
    return work(item)
