#!/usr/bin/env python3
"""The accounting's own test: made-up observations with a known verdict. Prints what it did; exit 1 on the first wrong verdict."""
import os
import socket
import struct
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import accountant  # noqa: E402
from accountant import decoder  # noqa: E402
from image import Image  # noqa: E402
import powerloss  # noqa: E402
import relay  # noqa: E402
import tape  # noqa: E402
import tracer  # noqa: E402

KEYS = decoder.Keys(bytes(32), {1: (0, bytes(range(32)))})


def check(what, verdict):
    print(("ok - " if verdict else "not ok - ") + what)
    if not verdict:
        sys.exit(1)


def header(generation=7, pageaddr=0x2000, tli=1, info=0x8000 | 1 << 8):
    return struct.pack("<HHIQII", 0xD110, info, tli, pageaddr, 0, generation)


def page(plain, generation=7, pageaddr=0x2000, raw_zeros=True):
    """A ciphertext page, by the independent decoder."""
    clear = header(0, pageaddr, info=0) + plain[24:].ljust(tape.PAGE - 24, b"\0")
    if raw_zeros:
        return decoder.encrypt_wal_page(KEYS, generation, True, clear)
    stream = decoder.wal_keystream(KEYS.wal_read(1), 1, generation, pageaddr)
    return header(generation, pageaddr) + decoder.xor(clear[24:], stream[24:])


def verdict(*pages, keys=True, **options):
    judge = accountant.Accountant(accountant.Keystream(KEYS) if keys else None, **options)
    for source, data in pages:
        judge.take(source, tape.Header(data).kind, tape.Header(data), 0, data)
    return judge.report()


def accounts():
    old = page(bytes(24) + b"A" * 4000)
    check("the same page twice holds", verdict(("disk:a", old), ("wire:a", old))["violations"] == 0)
    new = page(bytes(24) + b"A" * 3000 + b"B" * 3000)
    check("other bytes under the same counter are violations", verdict(("disk:a", old), ("disk:a", new))["violations"] == 125)
    check("... on another node with the same key as well", verdict(("disk:a", old), ("wire:b", new))["violations"] == 125)
    check("... and without the keys", verdict(("disk:a", old), ("disk:b", new), keys=False)["violations"] == 125)
    fresh = page(bytes(24) + b"A" * 3000 + b"B" * 3000, generation=8)
    check("under a fresh generation they are not", verdict(("disk:a", old), ("disk:a", fresh))["violations"] == 0)
    more = page(bytes(24) + b"A" * 4000 + b"C" * 400)
    check("growth into raw zeros is none", verdict(("disk:a", old), ("disk:a", more), ("disk:a", old))["violations"] == 0)
    filled = page(bytes(24) + b"A" * 4000, raw_zeros=False)
    check("a zero granule as keystream, later used, is one", verdict(("disk:a", filled), ("disk:a", more))["violations"] > 0)
    half = page(bytes(24) + b"A" * 4000 + b"C" * 5)
    report = verdict(("disk:a", half), ("disk:a", more))
    check("a half-copied edge is W6's, apart", report["violations"] == 0 and report["w6_granules"] == 1 and report["w6_bytes"] == 3)
    report = verdict(("disk:a", half), ("disk:a", more), keys=False)
    check("... and a violation for who cannot decrypt", report["violations"] == 1)
    flipped = bytearray(more)
    flipped[4030] ^= 1
    check("one changed bit is found", verdict(("disk:a", more), ("disk:b", bytes(flipped)))["violations"] == 1)
    clear = struct.pack("<HHIQII", 0xD110, 1, 1, 0x2000, 0, 0) + b"secret".ljust(tape.PAGE - 24, b"!")
    check("clear WAL is found", verdict(("disk:a", clear))["clear"] == 1)
    check("bytes without a header are found", verdict(("disk:a", b"\1" * tape.PAGE))["unknown"] == 1)
    judge = accountant.Accountant(accountant.Keystream(KEYS))
    judge.lost_power(tape.Header(old), 1024, new[4096:4608])
    torn = old[:1024] + new[4096:4608] + old[1536:]
    judge.take("wire:a", tape.ENCRYPTED, tape.Header(torn), 0, torn)
    judge.take("disk:a", tape.ENCRYPTED, tape.Header(old), 0, old)
    check("bytes that a power loss put there are none, whoever sends them", judge.count["violations"] == 0 and judge.count["torn"] == 64)
    judge.take("disk:a", tape.ENCRYPTED, tape.Header(new), 0, new)
    check("... others at the same place are", judge.count["violations"] == 125)
    judge = accountant.Accountant(accountant.Keystream(KEYS))
    judge.lost_power(tape.Header(bytes(24)), 4096, old[1024:1536])
    judge.take("wire:a", tape.UNKNOWN, tape.Header(bytes(24)), 0, bytes(4096) + old[1024:1536] + bytes(3584))
    check("... nor are those that it left without a header", judge.count["unknown"] == 0 and judge.count["torn"] == 64)
    judge.take("wire:a", tape.UNKNOWN, tape.Header(bytes(24)), 0, bytes(4096) + old[1024:1528] + b"secret!!" + bytes(3584))
    check("... if they are the same", judge.count["unknown"] == 1)
    judge = accountant.Accountant(accountant.Keystream(KEYS))
    for source, data, disk in (("disk:a", more, None), ("wire:a", more, "disk:a")):
        judge.remember(source, tape.ENCRYPTED, tape.Header(data), 0, data) if source == "disk:a" else None
        judge.take(source, tape.ENCRYPTED, tape.Header(data), 0, data, disk)
    check("a wire that carries its disk's bytes holds", judge.count["unserved"] == 0)
    judge.take("wire:a", tape.ENCRYPTED, tape.Header(filled), 0, filled, "disk:a")
    check("a wire on which zeros became keystream does not (W3)", judge.count["unserved"] > 0)


def ranges():
    old = bytes(range(256)) * 32
    check("equal buffers have no changed range", tape.changed_range(old, old) is None)
    for first, last in ((0, 1), (0, 8192), (8191, 8192), (100, 101), (4096, 4097), (17, 5000), (8, 16)):
        new = bytearray(old)
        new[first] ^= 255
        new[last - 1] ^= 255 if last - 1 != first else 0
        check(f"changed range {first}..{last}", tape.changed_range(old, bytes(new)) == (first & ~7, (last + 7) & ~7))


def power_losses():
    image = Image(bytes(2048))
    image.write(0, b"1" * 600, 1)
    image.synced(1)
    check("what is synced is safe", not image.dirty)
    image.write(500, b"2" * 100, 2)
    image.write(500, b"3" * 100, 3)
    check("a sector remembers all it was", [len(image.dirty[s]) for s in sorted(image.dirty)] == [3, 3])
    image.synced(2)
    check("an fsync makes durable what was written before it began",
          image.dirty[0][0][1][500:512] == b"2" * 12 and len(image.dirty[0]) == 2)
    with tempfile.TemporaryDirectory() as root:
        wal = os.path.join(root, "data", "pg_wal")
        os.makedirs(wal)
        name = os.path.join(wal, "000000010000000000000001")
        with open(name, "wb") as f:
            f.write(bytes(16384))
        watcher = tracer.Tracer(os.path.join(root, "data"), "disk:a", root)
        quoted = "".join(f"\\x{c:02x}" for c in name.encode())
        data = page(bytes(24) + b"A" * 4000)
        with open(name, "r+b") as f:
            f.write(data)
        bytes_ = "".join(f"\\x{c:02x}" for c in data)
        watcher.feed([f'7 pwrite64(3<{quoted}>, "{bytes_}", 8192, 0) = 8192\n', "7 +++ killed by SIGKILL +++\n"])
        watcher.compare()
        torn = powerloss.tear(watcher, 1, "random")
        with open(name, "rb") as f:
            now = f.read(8192)
        check("sectors that were not synced are torn", torn["changed"] > 0 and now != data)
        check("... each whole", all(now[s:s + 512] in (data[s:s + 512], bytes(512)) for s in range(0, 8192, 512)))
        watcher.writer.close()
        check("the write is on the tape", [len(d) for kind, _, _, d in tape.read(watcher.writer.path) if kind == tape.ENCRYPTED] == [8192])
        with open(name, "r+b") as f:
            f.write(b"sneaked in")
        try:
            watcher.compare()
            check("a write that the trace does not tell is found", False)
        except tracer.Trouble:
            check("a write that the trace does not tell is found", True)
        watcher = tracer.Tracer(os.path.join(root, "data"), "disk:b", root)
        with open(name, "r+b") as f:
            f.write(data[:4096])
        watcher.feed([f'7 pwrite64(3<{quoted}>, "{bytes_}", 8192, 0 <unfinished ...>\n', "7 <... pwrite64 resumed>) = ?\n", "7 +++ killed by SIGKILL +++\n"])
        watcher.compare()
        check("a write cut off by a kill is followed as far as it went", True)
        watcher.writer.close()


def wires():
    with tempfile.TemporaryDirectory() as root:
        for step in (1, 7, 24, 100, 8192, 30000):
            writer = tape.Writer(root, f"wire:s{step}")
            here, there = socket.socketpair()
            client, far = socket.socketpair()
            session = relay.Session(client, there, writer, threading.Lock())
            worker = threading.Thread(target=session.run)
            worker.start()
            wal = page(bytes(24) + b"A" * 4000) + page(bytes(24) + b"B" * 4000, pageaddr=0x4000)
            stream = b"W" + struct.pack(">IBH", 7, 0, 0)
            for start, end in ((0x2000, 0x3000), (0x3000, 0x5000), (0x5000, 0x6000)):
                body = b"w" + struct.pack(">QQQ", start, end, 0) + wal[start - 0x2000:end - 0x2000]
                stream += b"d" + struct.pack(">I", 4 + len(body)) + body
            got = bytearray()
            reader = threading.Thread(target=lambda: [got.extend(d) for d in iter(lambda: far.recv(65536), b"")])
            reader.start()
            for at in range(0, len(stream), step):
                here.sendall(stream[at:at + step])
            here.close()
            worker.join()
            reader.join()
            writer.close()
            seen = {}
            for kind, head, offset, data in tape.read(writer.path):
                seen.setdefault(head.pageaddr, bytearray(tape.PAGE))[offset:offset + len(data)] = data
                if kind != tape.ENCRYPTED:
                    check("every piece has its header", False)
            check(f"the relay passes on and records, {step} bytes at a time",
                  bytes(got) == stream and b"".join(bytes(seen[p]) for p in sorted(seen)) == wal)
        member = b"pg_wal/000000010000000000000001".ljust(124, b"\0") + b"%011o\0" % 16384 + bytes(20) + b"0" + bytes(512 - 157)
        other = b"base/1/1259".ljust(124, b"\0") + b"%011o\0" % 100 + bytes(20) + b"0" + bytes(512 - 157)
        archive = other + bytes(512) + member + wal + bytes(1024)
        for step in (1, 511, 100000):
            writer = tape.Writer(root, f"wire:t{step}")
            tar = relay.Tar(writer, threading.Lock())
            for at in range(0, len(archive), step):
                tar.feed(archive[at:at + step])
            writer.close()
            seen = {}
            for kind, head, offset, data in tape.read(writer.path):
                seen.setdefault(head.pageaddr, bytearray(tape.PAGE))[offset:offset + len(data)] = data
            check(f"WAL in a base backup is recorded, {step} bytes at a time", b"".join(bytes(seen[p]) for p in sorted(seen)) == wal)


if __name__ == "__main__":
    ranges()
    accounts()
    power_losses()
    wires()
