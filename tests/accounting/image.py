"""image: a file as the tracer knows it: what a reader sees now, and what each sector may be after a power loss."""
import tape

SECTOR = 512
PAGE = tape.PAGE


class Image:
    """A file: its bytes now, and by sector what a power loss may leave, each with the page header that it was written
    under: [(when, bytes, header)], the durable ones first."""

    def __init__(self, data=b""):
        self.data = bytearray(data)
        self.dirty = {}

    def durable_sector(self, sector):
        old = bytes(self.data[sector * SECTOR:(sector + 1) * SECTOR])
        return old + bytes(SECTOR - len(old))

    def header(self, sector):
        page = sector * SECTOR // PAGE * PAGE
        return bytes(self.data[page:page + tape.HEADER]).ljust(tape.HEADER, b"\0")

    def write(self, offset, data, when):
        end = offset + len(data)
        first, last = offset // SECTOR, (end + SECTOR - 1) // SECTOR
        before = {s: (self.durable_sector(s), self.header(s)) for s in range(first, last)}
        if len(self.data) < end:
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        for sector, (old, header) in before.items():
            now = self.durable_sector(sector)
            if sector in self.dirty:
                if self.dirty[sector][-1][1] != now:
                    self.dirty[sector].append((when, now, self.header(sector)))
            elif old != now:
                self.dirty[sector] = [(-1, old, header), (when, now, self.header(sector))]

    def resize(self, size):
        if size < len(self.data):
            del self.data[size:]
            for sector in [s for s in self.dirty if s * SECTOR >= size]:
                del self.dirty[sector]
        else:
            self.data.extend(bytes(size - len(self.data)))

    def synced(self, when):
        """Everything written up to the moment `when` is durable."""
        for sector in list(self.dirty):
            kept = [v for v in self.dirty[sector] if v[0] > when]
            if kept:
                base = [v for v in self.dirty[sector] if v[0] <= when][-1]
                self.dirty[sector] = [(-1, *base[1:])] + kept
            else:
                del self.dirty[sector]
