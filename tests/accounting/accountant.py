#!/usr/bin/env python3
"""accountant: invariant W1 from what observers saw: no two ciphertexts under one WAL key and counter.

  accountant.py [--keys DIR --kek FILE] [--clear-is-ciphertext] [--w6-max N] TAPE|DIRECTORY...

Reads tapes (tape.py) of disks and wires that share one WAL key. A counter is (epoch, timeline of the page's header, generation,
page number, 8-byte granule); the first ciphertext seen for each is kept, and another one is a violation. Raw-zero granules
are no ciphertext, and neither is what a simulated power loss put behind a header (tape.TORN: counted apart, and only exactly those
bytes at that place). With the keys, two ciphertexts of one granule whose plaintexts are byte by byte equal or one of them zero, at
most 7 bytes different, are a record's edge caught while it was copied (invariant W6): counted apart, and too many are a failure.

Wires of servers must carry what their disks hold (W3: raw-zero granules are not turned into keystream): with --served WIRE=DISK,
a granule that is ciphertext on the wire and was never written to the disk fails too.

Prints one line of JSON. Exit status: 0 all holds, 1 a violation, 2 usage.
"""
import argparse
import glob
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "decoder")]
import decoder  # noqa: E402
import tape  # noqa: E402

PAGE = tape.PAGE
SHOWN = 20


class Keystream:
    """The keystream of granules, by the independent decoder."""

    def __init__(self, keys):
        self.keys = keys  # decoder.Keys
        self.page, self.stream = None, None

    def granule(self, key, index):
        if key != self.page:
            epoch, tli, generation, number = key
            self.page, self.stream = key, decoder.wal_keystream(self.keys.wal_read(epoch), tli, generation, number * PAGE)
        return self.stream[8 * index:8 * index + 8]


def edge(one, other):
    """Is this a granule seen before and after a record's edge was copied into it (W6)? Number of different bytes, or 0."""
    different = 0
    for a, b in zip(one, other):
        if a != b:
            if a != 0 and b != 0:
                return 0
            different += 1
    return different if different <= 7 else 0


class Accountant:
    def __init__(self, keystream=None, clear_is_ciphertext=False):
        self.keystream = keystream
        self.clear_is_ciphertext = clear_is_ciphertext
        self.pages = {}     # counter without the granule -> the ciphertext known, zeros where none
        self.on_disk = {}   # disk -> the same, of that disk alone; kept for disks that a served wire is compared with
        self.torn = {}      # counter without the granule -> {granule: {bytes}} that a power loss put there
        self.headerless = set()  # granules that a power loss left without any header before them
        self.w6 = 0
        self.w6_bytes = 0
        self.count = {"observations": 0, "bytes": 0, "ciphertext": 0, "violations": 0, "clear": 0, "unknown": 0, "unserved": 0, "torn": 0}
        self.sources = {}
        self.shown = []

    def show(self, what, **more):
        if len(self.shown) < SHOWN:
            self.shown.append({"what": what, **more})

    def take(self, source, kind, header, offset, data, disk=None):
        """One observation; disk: the disk that this wire must agree with."""
        count = self.count
        count["observations"] += 1
        count["bytes"] += len(data)
        self.sources[source] = self.sources.get(source, 0) + len(data)
        if kind == tape.UNKNOWN:
            granules = {bytes(data[at:at + 8]) for at in range(0, len(data), 8)} - {bytes(8)}
            if granules <= self.headerless:
                count["torn"] += len(granules)
                return
            count["unknown"] += 1
            self.show("no valid page header", source=source, offset=offset, begin=data[:24].hex())
            return
        if kind == tape.CLEAR and not self.clear_is_ciphertext:
            # a header alone is no secret
            if offset + len(data) > header.length:
                count["clear"] += 1
                self.show("clear WAL", source=source, lsn=f"{header.pageaddr:X}", offset=offset)
            return
        if offset < header.length:
            data = data[header.length - offset:]
            offset = header.length
        if not data:
            return
        if offset % 8 or len(data) % 8:
            count["unknown"] += 1
            self.show("part of a granule", source=source, lsn=f"{header.pageaddr:X}", offset=offset, length=len(data))
            return
        key = (header.epoch, header.tli, header.generation, header.pageaddr // PAGE)
        page = self.pages.get(key)
        if page is None:
            page = self.pages[key] = bytearray(PAGE)
        if page[offset:offset + len(data)] != data:
            self.compare(source, key, page, offset, data)
        if disk is not None:
            self.served(source, key, disk, offset, data)

    def lost_power(self, header, offset, data):
        """After a power loss these bytes stand behind this header."""
        if not any((header.magic, header.info, header.tli, header.pageaddr)):
            self.headerless.update(bytes(data[at:at + 8]) for at in range(0, len(data) - 7, 8))
            return
        if header.kind != tape.ENCRYPTED:
            return
        torn = self.torn.setdefault((header.epoch, header.tli, header.generation, header.pageaddr // PAGE), {})
        for at in range(0, len(data) - 7, 8):
            torn.setdefault((offset + at) // 8, set()).add(bytes(data[at:at + 8]))

    def compare(self, source, key, page, offset, data):
        known = memoryview(page).cast("Q")
        base = offset // 8
        torn = self.torn.get(key, {})
        for i, new in enumerate(memoryview(bytes(data)).cast("Q")):
            old = known[base + i]
            if new == old or new == 0:
                continue
            if base + i in torn and new.to_bytes(8, sys.byteorder) in torn[base + i]:
                self.count["torn"] += 1
                continue
            if old == 0:
                known[base + i] = new
                self.count["ciphertext"] += 8
                continue
            self.differ(source, key, known, base + i, old.to_bytes(8, sys.byteorder), new.to_bytes(8, sys.byteorder))

    def differ(self, source, key, known, index, old, new):
        if self.keystream is not None:
            stream = self.keystream.granule(key, index)
            plain_old = bytes(a ^ b for a, b in zip(old, stream))
            plain_new = bytes(a ^ b for a, b in zip(new, stream))
            bytes_different = edge(plain_old, plain_new)
            if bytes_different:
                self.w6 += 1
                self.w6_bytes += bytes_different
                # the fuller one stays
                if plain_new.count(0) < plain_old.count(0):
                    known[index] = int.from_bytes(new, sys.byteorder)
                return
        self.count["violations"] += 1
        epoch, tli, generation, number = key
        self.show("two ciphertexts under one counter", source=source, epoch=epoch, timeline=tli, generation=f"{generation:08X}",
                  lsn=f"{number * PAGE + index * 8:X}", one=old.hex(), other=new.hex())

    def remember(self, disk, kind, header, offset, data):
        """For --served: what this disk was given, zeros where nothing."""
        if kind != tape.ENCRYPTED:
            return
        key = (header.epoch, header.tli, header.generation, header.pageaddr // PAGE)
        page = self.on_disk.setdefault(disk, {}).setdefault(key, bytearray(PAGE))
        old = page[offset:offset + len(data)]
        if old.count(0) == len(old):
            page[offset:offset + len(data)] = data
            return
        for at in range(0, len(data) - 7, 8):
            piece = data[at:at + 8]
            if any(piece):
                page[offset + at:offset + at + 8] = piece

    def served(self, source, key, disk, offset, data):
        page = self.on_disk.get(disk, {}).get(key, bytes(PAGE))
        torn = self.torn.get(key, {})
        if page[offset:offset + len(data)] == data:
            return
        for at in range(0, len(data), 8):
            piece = bytes(data[at:at + 8])
            if any(piece) and not any(page[offset + at:offset + at + 8]) and piece not in torn.get((offset + at) // 8, ()):
                self.count["unserved"] += 1
                self.show("ciphertext on the wire that no write to the disk carried", source=source, generation=f"{key[2]:08X}",
                          lsn=f"{key[3] * PAGE + offset + at:X}")

    def report(self):
        generations = {(k[0], k[1], k[2]) for k in self.pages}
        return {**self.count, "w6_granules": self.w6, "w6_bytes": self.w6_bytes, "pages": len(self.pages),
                "generations": len(generations), "epochs": sorted({g[0] for g in generations}),
                "timelines": sorted({g[1] for g in generations}), "sources": self.sources, "shown": self.shown}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", help="the key directory (its live/ holds the wrapped WAL keys)")
    parser.add_argument("--kek", help="the file with the cluster key")
    parser.add_argument("--clear-is-ciphertext", action="store_true", help="self-test on servers without the storage layer")
    parser.add_argument("--served", action="append", default=[], metavar="WIRE=DISK")
    parser.add_argument("--w6-max", type=float, default=0.001, help="most of all ciphertext granules that may be W6's")
    parser.add_argument("paths", nargs="+")
    args = parser.parse_args()

    keystream = None
    if args.keys:
        keystream = Keystream(decoder.open_key_dir(args.keys, decoder.read_kek(args.kek)))
    tapes = []
    for path in args.paths:
        tapes += sorted(glob.glob(os.path.join(path, "*.tape"))) if os.path.isdir(path) else [path]
    if not tapes:
        print("accountant: no tapes", file=sys.stderr)
        return 2
    served = dict(pair.split("=", 1) for pair in args.served)
    accountant = Accountant(keystream, args.clear_is_ciphertext)
    for path in tapes:
        for kind, header, offset, data in tape.read(path):
            if kind == tape.TORN:
                accountant.lost_power(header, offset, data)
    # disks first: a wire is compared with all that its disk was given
    for path in sorted(tapes, key=lambda p: (tape.source_of(p).split(":")[0] != "disk", p)):
        source = tape.source_of(path)
        for kind, header, offset, data in tape.read(path):
            if kind == tape.TORN:
                continue
            if source in served.values():
                accountant.remember(source, kind, header, offset, data)
            accountant.take(source, kind, header, offset, data, served.get(source))
    report = accountant.report()
    granules = report["ciphertext"] // 8
    report["w6_excess"] = report["w6_granules"] > max(args.w6_max * granules, 16)
    bad = report["violations"] or report["clear"] or report["unknown"] or report["unserved"] or report["w6_excess"]
    report["holds"] = not bad
    print(json.dumps(report))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
