"""What the XNNPACK delegate of a `.pte` file holds, and whose memory it reads. For executorch 1.4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from d3d_edge.runtimes import xnnpack_classifier, xnnpack_fusion, xnnpack_graph


@contextmanager
def made_small(graphs: list[Any], classifiers: dict[bytes, xnnpack_classifier.Weights]) -> Iterator[None]:
    """Write delegates without idle moves of memory, and with their constants inside; add their graphs to `graphs`.

    Those of the `classifiers` are INT8 again, by `xnnpack_classifier`.

    ExecuTorch stores every constant as a segment of the program instead, named twice by the SHA-256 of its bytes, so
    that several programs can share it; of a small network's many scales, the name is longer than the scale.
    """
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.exir._serialize._named_data_store import NamedDataStore, NamedDataStoreOutput

    serialize = xnnpack_preprocess.serialize_xnnpack_binary
    stores: list[EmptiedStore] = []

    class EmptiedStore(NamedDataStore):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.staying: set[str] = set()
            stores.append(self)

        def get_named_data_store_output(self) -> NamedDataStoreOutput:
            kept = NamedDataStore()
            for key in sorted(self.staying):
                entry = self.pte_data[key]
                kept.add_named_data(key, self.buffers[entry.buffer_index], entry.alignment)
            return kept.get_named_data_store_output()

    def serialize_small(graph: Any, constants: bytearray) -> bytes:
        store = stores.pop()
        named = {key: store.buffers[at] for key, at in store.key_to_buffer_idx.items()}
        xnnpack_classifier.narrow(graph, classifiers, named)
        xnnpack_graph.simplify(graph)
        xnnpack_fusion.fuse(graph)
        store.staying = xnnpack_graph.embed(graph, named, constants)
        graphs.append(graph)
        written: bytes = serialize(graph, constants)
        return written

    xnnpack_preprocess.serialize_xnnpack_binary = serialize_small
    xnnpack_preprocess.NamedDataStore = EmptiedStore
    try:
        yield
    finally:
        xnnpack_preprocess.serialize_xnnpack_binary = serialize
        xnnpack_preprocess.NamedDataStore = NamedDataStore


def memory(graphs: Sequence[Any], *, outside: bool) -> Any:
    """How a file uses memory: it reads the clip where the app has it, if nothing is read beyond its end there.

    Otherwise, or where operators are left `outside` of the delegates, the clip is first copied, which takes 0.1 to 0.2
    ms for 16x112x112.
    """
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    in_place = not outside and len(graphs) == 1 and xnnpack_graph.stays_inside(graphs[0])
    return ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=not in_place))
