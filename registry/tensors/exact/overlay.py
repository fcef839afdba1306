"""The model of an exact node: the base's files with the tensors of an exact file in the place of the base's own.

It is a base model like any other to what reads it: files with headers, and every tensor with the file that holds it. No
byte of it is stored; a range of a file is made of ranges of the base's files and of frames.
"""

from __future__ import annotations

from registry.files.header import Header, write_header
from registry.files.model_weights import ModelWeights, Tensors
from registry.files.source import ByteSource, BytesSource, JoinedSource, read_range
from registry.tensors.exact.index import ExactIndex
from registry.tensors.exact.source import ExactTensor, RecentFrames


def overlay(base: ModelWeights, index: ExactIndex, source: ByteSource) -> ModelWeights:
    """Lay the tensors of an exact file over a base's; that they fit was checked."""
    headers, tensors = base.headers, base.tensors
    recent = RecentFrames()
    found = dict(tensors)
    laid: dict[str, Header] = {}
    made: dict[str, ByteSource] = {}
    for path, header in headers.items():
        if not index.entries.keys() & header.entries.keys():
            laid[path] = header
            continue
        lead, out = _lead(header, tensors, index)
        joined = JoinedSource(path)
        joined.add(BytesSource(lead, path), 0, len(lead))
        for name, entry in header.entries.items():
            if name in index.entries:
                own = index.entries[name]
                joined.add(ExactTensor(source, own, tensors[name], recent), 0, own.size)
            else:
                joined.add(tensors[name][0], entry.start, entry.stop - entry.start)
        laid[path], made[path] = out, joined
        found.update({name: (joined, entry) for name, entry in out.entries.items()})
    return ModelWeights(laid, found, made)


def _lead(header: Header, tensors: Tensors, index: ExactIndex) -> tuple[bytes, Header]:
    """The bytes before the first tensor and the header they say: the base's own, unless a shape or a dtype changed."""
    said = [(name, entry.dtype, entry.shape) for name, entry in header.entries.items()]
    own = {name: (name, entry.dtype, entry.shape) for name, entry in index.entries.items()}
    wanted = [own.get(one[0], one) for one in said]
    if wanted == said:
        source = tensors[said[0][0]][0]
        return bytes(read_range(source, 0, header.size)), header
    return write_header(wanted, header.metadata)
