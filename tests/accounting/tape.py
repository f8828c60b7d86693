"""tape: what an observer saw, in a file: bytes of WAL pages, each with the page header that names its keystream.

One record: length of the rest (u32), kind (u8), offset in the page (u16), the page header's 24 bytes, the bytes.
Kinds: ENCRYPTED (the header carries the flag), CLEAR (a valid header without it), UNKNOWN (no valid header), and TORN: bytes that a
power loss put behind a header they were not written under (an old sector of a recycled file, say). They are no keystream
of that page, but a server sends them as they stand when they lie in a record that recovery gave up. A tape's name is <source>.<serial>.tape; a source is a node's disk ("disk:blue") or a wire ("wire:red").
"""
import os
import re
import struct

PAGE = 8192
HEADER = 24
ENCRYPTED, CLEAR, UNKNOWN, TORN = 1, 2, 3, 4
INFO_ENCRYPTED = 0x8000
INFO_LONG = 0x0002
# names under which a server keeps WAL in pg_wal
WAL_NAME = re.compile(r"[0-9A-F]{24}(\.partial)?|xlogtemp\.\d+|RECOVERYXLOG|RECOVERYHISTORY|\d{8}\.history")
_HEAD = struct.Struct("<IBH24s")
_PAGE_HEAD = struct.Struct("<HHIQII")


class Header:
    """The fields of a WAL page header."""

    __slots__ = ("magic", "info", "tli", "pageaddr", "rem_len", "generation")

    def __init__(self, raw):
        (self.magic, self.info, self.tli, self.pageaddr, self.rem_len, self.generation) = _PAGE_HEAD.unpack_from(raw)

    @property
    def epoch(self):
        return (self.info >> 8) & 0x7F

    @property
    def length(self):
        return 40 if self.info & INFO_LONG else 24

    @property
    def kind(self):
        if self.magic >> 8 != 0xD1 or self.pageaddr % PAGE or self.tli == 0:
            return UNKNOWN
        if self.info & INFO_ENCRYPTED:
            return ENCRYPTED
        return CLEAR if self.info & ~0x000F == 0 else UNKNOWN


class Writer:
    def __init__(self, directory, source):
        self.source = source
        name = source.replace(":", "-")
        serial = 1
        while True:
            self.path = os.path.join(directory, f"{name}.{serial:04d}.tape")
            try:
                self.file = open(self.path, "xb")
                break
            except FileExistsError:
                serial += 1

    def put(self, header, offset, data, kind=None):
        """The bytes at offset of a page; header is the one in force for them. Zero bytes say nothing and are left out."""
        if data.count(0) == len(data):
            return
        header = bytes(header)
        self.file.write(_HEAD.pack(27 + len(data), kind or Header(header).kind, offset, header))
        self.file.write(data)

    def close(self):
        self.file.close()


def read(path):
    """Yields (kind, Header, offset, bytes). A record that a kill -9 of the observer cut off ends the tape."""
    with open(path, "rb") as tape:
        while True:
            head = tape.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, kind, offset, raw = _HEAD.unpack(head)
            data = tape.read(length - 27)
            if len(data) < length - 27:
                return
            yield kind, Header(raw), offset, data


def source_of(path):
    name = os.path.basename(path)
    return name.rsplit(".", 2)[0].replace("-", ":", 1)


def changed_range(old, new):
    """First and last+1 byte, on granules of 8, where two equally long buffers differ; None when they are equal."""
    if old == new:
        return None
    low, high = 0, len(new)
    while high - low > 8:  # the first difference, by halves
        mid = (low + high) // 2 & ~7
        if mid == low:
            mid = low + 8
        if old[low:mid] != new[low:mid]:
            high = mid
        else:
            low = mid
    first = low
    low, high = first, len(new)
    while high - low > 8:  # and the last
        mid = (low + high) // 2 & ~7
        if mid == low:
            mid = low + 8
        if old[mid:high] != new[mid:high]:
            low = mid
        else:
            high = mid
    return first, high
