#!/usr/bin/env python3
"""An independent decoder of what walcrypt writes. Shares no code with it: Python, python3-cryptography, the text of docs/formats/.

  decoder.py keys  --key-dir DIR --kek-file F                               key ids of a key directory, its mac checked
  decoder.py page  --key-dir DIR --kek-file F --db N --rel N --fork NAME --block N [--temp] FILE
                                                                            one page of a relation file, decrypted, to stdout
  decoder.py wal   --key-dir DIR --kek-file F [--page N] FILE               a WAL file (or its page N), decrypted, to stdout
  decoder.py lookfor --key-dir DIR --kek-file F --marker TEXT FILE...       names of WAL files whose clear text holds TEXT
  decoder.py readable --key-dir DIR --kek-file F DATADIR                    how many pages of its relation files the relation key opens, of how many
  decoder.py backup --passphrase-file F FILE                                the keysets of a key backup: names and key ids
  decoder.py vectors DIR                                                    write page.txt, wal.txt, generation.txt, keyset.txt

FILE of `page` is either the segment file that holds the block, or the 8192 bytes of the page alone; N of --block counts from the
start of the fork. The cluster key's file holds 64 hex digits. As a module: open_key_dir, decrypt_page, decrypt_wal_page, ...
"""
import argparse
import hashlib
import hmac
import json
import os
import re
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding, aes_key_wrap_with_padding

PAGE = 8192
SECTOR = 512
SEGMENT_BLOCKS = 131072
FORKS = {"main": 0, "fsm": 1, "vm": 2, "init": 3}
METHODS = {"AES128": 1, "AES192": 2, "AES256": 3}


class Bad(Exception):
    """What was read is not what docs/formats/ says it must be."""


# Keys


def derive(key, info, length):
    return HKDF(hashes.SHA256(), length, None, info.encode()).derive(key)


def key_id(key):
    return derive(key, "walcrypt key id", 8).hex()


def unwrap_wkey(kek, wrapped):
    if len(wrapped) != 48:
        raise Bad(f"a .wkey file has 48 bytes, not {len(wrapped)}")
    try:
        plain = aes_key_unwrap_with_padding(kek, wrapped)
    except InvalidUnwrap:
        raise Bad("the cluster key does not open it") from None
    length = int.from_bytes(plain[:4], sys.byteorder) if len(plain) == 36 else 0
    if length not in (16, 24, 32) or any(plain[4 + length:]):
        raise Bad("it opens, but holds no key")
    return plain[4:4 + length]


def wrap_wkey(kek, key):
    return aes_key_wrap_with_padding(kek, len(key).to_bytes(4, sys.byteorder) + key.ljust(32, b"\0"))


def read_kek(path):
    with open(path, "rb") as f:
        text = f.read().strip()
    text = text.removeprefix(b"encryptionkey=")
    if not re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        raise Bad(f"{path} does not hold 64 hex digits")
    return bytes.fromhex(text.decode())


class Keys:
    """relation: bytes; epochs: number -> (after_timeline, key); info: keyset.json, or None for CFE's two files alone."""

    def __init__(self, relation, epochs, info=None):
        self.relation, self.epochs, self.info = relation, epochs, info

    def wal_read(self, epoch7):
        for number, (_, key) in self.epochs.items():
            if number % 128 == epoch7:
                return key
        raise Bad(f"no WAL key of epoch {epoch7} (modulo 128)")

    def wal_write(self, tli):
        number = max(n for n, (after, _) in self.epochs.items() if after < tli)
        return number, self.epochs[number][1]


def check_mac(kek, files):
    text = files["keyset.json"]
    have = json.loads(text)["mac"]
    blank = re.sub(rb'("mac"\s*:\s*")[0-9a-f]*(")', rb"\1\2", text)
    mac = hmac.new(derive(kek, "walcrypt keyset mac v1", 32), digestmod="sha256")
    for name in sorted(files):
        data = blank if name == "keyset.json" else files[name]
        mac.update(struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", len(data)) + data)
    if not hmac.compare_digest(mac.hexdigest(), have):
        raise Bad("keyset.json's mac does not match")


def open_key_dir(path, kek):
    live = os.path.join(path, "live")
    files = {}
    for name in os.listdir(live):
        with open(os.path.join(live, name), "rb") as f:
            files[name] = f.read()
    relation = unwrap_wkey(kek, files["relation.wkey"])
    if "keyset.json" not in files:
        return Keys(relation, {1: (0, unwrap_wkey(kek, files["wal.wkey"]))})
    check_mac(kek, files)
    info = json.loads(files["keyset.json"])
    epochs = {}
    for epoch in info["epochs"]:
        name = f"wal-{epoch['number']}.wkey"
        key = unwrap_wkey(kek, files[name if name in files else "wal.wkey"])
        if key_id(key) != epoch["id"]:
            raise Bad(f"the key of epoch {epoch['number']} is not the one keyset.json names")
        epochs[epoch["number"]] = (epoch["after_timeline"], key)
    return Keys(relation, epochs, info)


# Relation pages


def xts(key, tweak):
    full = derive(key, "walcrypt page xts v1", 32 if len(key) == 16 else 64)
    return Cipher(algorithms.AES(full), modes.XTS(tweak))


def page_tweak(db, rel, block, fork, temp):
    return struct.pack("<IIIBBH", db, rel, block, fork, 1 if temp else 0, 0)


def encrypt_page(key, db, rel, block, fork, temp, page):
    if not any(page):
        return page
    return xts(key, page_tweak(db, rel, block, fork, temp)).encryptor().update(page)


def decrypt_page(key, db, rel, block, fork, temp, page):
    clear = bytearray(xts(key, page_tweak(db, rel, block, fork, temp)).decryptor().update(page))
    for at in range(0, PAGE, SECTOR):
        if not any(page[at:at + SECTOR]):
            clear[at:at + SECTOR] = bytes(SECTOR)
    return bytes(clear)


FNV_PRIME = 16777619
SUM_SEEDS = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)


def page_checksum(page, block):
    """PostgreSQL's data checksum of a clear page."""
    words = struct.unpack("<2048I", page[:8] + b"\0\0" + page[10:])
    sums = list(SUM_SEEDS)

    def mix(i, value):
        value ^= sums[i]
        sums[i] = (value * FNV_PRIME ^ value >> 17) & 0xFFFFFFFF

    for at in range(0, 2048, 32):
        for i in range(32):
            mix(i, words[at + i])
    for _ in range(2):
        for i in range(32):
            mix(i, 0)
    total = block
    for value in sums:
        total ^= value
    return total % 65535 + 1


# WAL pages


class WalHeader:
    """The header of a WAL page; kind is zero, clear, encrypted or invalid."""

    def __init__(self, page):
        self.magic, info, self.tli, self.pageaddr, self.rem_len, self.generation = struct.unpack("<HHIQII", page[:24])
        self.encrypted = bool(info & 0x8000)
        self.epoch7 = info >> 8 & 0x7F if self.encrypted else 0
        self.info = info & 0xFF if self.encrypted else info
        self.len = 40 if self.info & 2 else 24
        if not any(page[:24]):
            self.kind = "zero"
        elif (self.magic >> 8 != 0xD1 or self.pageaddr % PAGE or self.pageaddr >= 1 << 61 or self.tli == 0
              or self.info & ~0xF or (not self.encrypted and self.generation)):
            self.kind = "invalid"
        else:
            self.kind = "encrypted" if self.encrypted else "clear"


def wal_keystream(key, tli, generation, pageaddr):
    """8192 bytes; the page's byte i meets keystream byte i."""
    counter = struct.pack(">II", tli, generation) + (pageaddr // PAGE << 16).to_bytes(8, "big")
    return Cipher(algorithms.AES(derive(key, "walcrypt wal ctr v1", len(key))), modes.CTR(counter)).encryptor().update(bytes(PAGE))


def xor(a, b):
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def decrypt_wal_page(keys, page):
    """The page as PostgreSQL wrote it. Anything without the flag comes back unchanged."""
    header = WalHeader(page)
    if header.kind != "encrypted":
        return page
    stream = wal_keystream(keys.wal_read(header.epoch7), header.tli, header.generation, header.pageaddr)
    clear = bytearray(xor(page, stream))
    for at in range(0, PAGE, 8):
        if not any(page[at:at + 8]):
            clear[at:at + 8] = bytes(8)
    clear[:header.len] = page[:header.len]
    struct.pack_into("<H", clear, 2, header.info)
    struct.pack_into("<I", clear, 20, 0)
    return bytes(clear)


def encrypt_wal_page(keys, generation, last, page):
    """W2: the trailing zero granules raw, in the last page of a write every zero granule."""
    header = WalHeader(page)
    if header.kind != "clear":
        return page
    number, key = keys.wal_write(header.tli)
    out = bytearray(xor(page, wal_keystream(key, header.tli, generation, header.pageaddr)))
    end = PAGE
    while end > header.len and not any(page[end - 8:end]):
        end -= 8
    out[end:] = bytes(PAGE - end)
    if last:
        for at in range(header.len, end, 8):
            if not any(page[at:at + 8]):
                out[at:at + 8] = bytes(8)
    out[:header.len] = page[:header.len]
    struct.pack_into("<H", out, 2, header.info | 0x8000 | number % 128 << 8)
    struct.pack_into("<I", out, 20, generation)
    return bytes(out)


def proxy_generation(key, system_identifier, tli, history_sha256, incarnation):
    text = struct.pack(">QI", system_identifier, tli) + history_sha256 + struct.pack(">Q", incarnation)
    mac = hmac.digest(derive(key, "walcrypt wal generation v1", 32), text, "sha256")
    return int.from_bytes(mac[:4], "big") | 0x80000000


def decrypt_wal(keys, data):
    if len(data) % PAGE:
        raise Bad(f"a WAL file is made of whole pages, not of {len(data)} bytes")
    return b"".join(decrypt_wal_page(keys, data[at:at + PAGE]) for at in range(0, len(data), PAGE))


# The packed keyset


def pack_keyset(method, system_identifier, relation, epochs):
    out = b"WCKS" + struct.pack("<IIQI", 1, METHODS[method], system_identifier, len(epochs)) + relation.ljust(32, b"\0")
    for number, (after, key) in sorted(epochs.items()):
        out += struct.pack("<II", number, after) + key.ljust(32, b"\0")
    return out + hashlib.sha256(out).digest()


# Vectors


def unpack_keyset(data):
    """Method, system identifier, relation key, {epoch: (after_timeline, key)}."""
    magic, version, method, identifier, count = struct.unpack_from("<4sIIQI", data)
    if magic != b"WCKS" or version != 1 or len(data) != 24 + 32 + 40 * count + 32:
        raise Bad("not a packed keyset")
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise Bad("the packed keyset's checksum does not match")
    length = {number: size for number, size in zip(METHODS.values(), (16, 24, 32))}[method]
    epochs = {}
    for i in range(count):
        number, after, key = struct.unpack_from("<II32s", data, 56 + 40 * i)
        epochs[number] = (after, key[:length])
    return method, identifier, data[24:24 + length], epochs


def open_backup(passphrase, data):
    """docs/formats/backup.md: [(name, what keyset.json said, unpack_keyset's)]."""
    head = struct.Struct("<4sIIII32s12sQ")
    magic, version, log2_n, r, p, salt, nonce, length = head.unpack_from(data)
    if magic != b"WCBK" or version != 1 or len(data) != head.size + length + 16 + 32:
        raise Bad("not a backup of keys")
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise Bad("its checksum does not fit")
    key = hashlib.scrypt(passphrase, salt=salt, n=1 << log2_n, r=r, p=p, maxmem=1 << 30, dklen=32)
    try:
        plain = AESGCM(key).decrypt(nonce, data[head.size:-32], data[:head.size])
    except InvalidTag:
        raise Bad("the passphrase does not open it") from None
    at = 4
    found = []

    def part():
        nonlocal at
        size = struct.unpack_from("<I", plain, at)[0]
        at += 4 + size
        return plain[at - size:at]

    for _ in range(struct.unpack_from("<I", plain)[0]):
        name, text, packed = part(), part(), part()
        found.append((name.decode("ascii"), json.loads(text), unpack_keyset(packed)))
    if at != len(plain):
        raise Bad("bytes behind the keysets")
    return found


def noise(seed, length):
    """The same bytes in the C tests: a 64-bit linear congruential generator's top byte."""
    out = bytearray(length)
    for i in range(length):
        seed = (seed * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        out[i] = seed >> 56
    return out


def holes(page, spec):
    for hole in spec.split(",") if spec != "-" else []:
        at, length = map(int, hole.split("+"))
        page[at:at + length] = bytes(length)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def page_vectors():
    yield "# Relation pages: key, db, rel, block, fork, temp, seed and holes of the clear page, SHA-256 of the clear and of the encrypted page, PostgreSQL's checksum of the clear page."
    for size in (16, 24, 32):
        key = bytes(noise(size, size))
        for db, rel, block, fork, temp, hole in (
                (0, 1262, 0, 0, 0, "-"), (5, 16384, 7, 0, 0, "24+4000"), (5, 16384, 131072, 0, 0, "-"), (5, 16384, 7, 1, 0, "-"),
                (5, 16384, 7, 2, 0, "-"), (5, 16384, 7, 3, 0, "-"), (5, 16384, 7, 0, 1, "-"), (7, 16384, 7, 0, 0, "512+512,4096+4096"),
                (4294967295, 4294967295, 4294967294, 3, 1, "0+4096"), (1, 2, 3, 0, 0, "0+8192"), (1, 2, 3, 0, 0, "0+8191")):
            page = noise(rel + block + fork, PAGE)
            holes(page, hole)
            enc = encrypt_page(key, db, rel, block, fork, temp, bytes(page))
            yield f"{key.hex()} {db} {rel} {block} {fork} {temp} {rel + block + fork} {hole} {sha(page)} {sha(enc)} {page_checksum(page, block)}"


def wal_vectors():
    yield "# WAL pages: WAL key, epoch, tli, generation, pageaddr, info, last, seed and holes of the body, SHA-256 of the clear and of the encrypted page."
    for size in (16, 24, 32):
        key = bytes(noise(100 + size, size))
        for epoch, tli, generation, pageaddr, info, last, hole in (
                (1, 1, 1, 0x1000000, 2, 0, "-"), (1, 1, 1, 0x1002000, 0, 0, "-"), (1, 1, 0x7FFFFFFF, 0x1002000, 1, 0, "4096+4096"),
                (127, 3, 0x80000001, 0x1FFFFFFFFFFFE000, 0xF, 0, "-"), (128, 3, 0xFFFFFFFF, 0x100000000, 5, 1, "-"),
                (129, 0xFFFFFFFF, 5, 0x2000, 0, 1, "24+8,48+7,100+8,104+16,8184+8"), (2, 2, 5, 0x4000, 0, 0, "24+8,104+16,8176+16"),
                (2, 2, 5, 0x6000, 0, 1, "24+8168"), (2, 2, 5, 0x1000000, 3, 1, "40+4096,8000+192"), (2, 2, 0, 0x8000, 0, 0, "24+8168")):
            page = noise(pageaddr & 0xFFFF | tli & 0xFF, PAGE)
            holes(page, hole)
            struct.pack_into("<HHIQII", page, 0, 0xD110, info, tli, pageaddr, 17, 0)
            keys = Keys(key, {epoch: (0, key)})
            enc = encrypt_wal_page(keys, generation, last, bytes(page))
            assert decrypt_wal_page(keys, enc) == page
            yield (f"{key.hex()} {epoch} {tli} {generation} {pageaddr:#x} {info} {last} {pageaddr & 0xFFFF | tli & 0xFF} {hole} "
                   f"{sha(page)} {sha(enc)}")


def generation_vectors():
    yield "# Generations of a proxy that encrypts plaintext: WAL key, system identifier, timeline, SHA-256 of its history file, incarnation, generation."
    for size, system, tli, incarnation in ((16, 1, 1, 0), (24, 7000000000000000001, 2, 1), (32, 2**64 - 1, 2**32 - 1, 2**64 - 1)):
        key, history = bytes(noise(size, size)), hashlib.sha256(b"1\t0/3000000\treason\n").digest() if tli > 1 else bytes(32)
        yield f"{key.hex()} {system} {tli} {history.hex()} {incarnation} {proxy_generation(key, system, tli, history, incarnation)}"


def keyset_vectors():
    yield "# Packed keysets; then key ids and .wkey files: \"pack\" packed | \"id\" key id | \"wkey\" cluster key, data key, file (little-endian host)."
    for method, size in (("AES128", 16), ("AES192", 24), ("AES256", 32)):
        relation, wal, later = (bytes(noise(size + n, size)) for n in (1, 2, 3))
        yield "pack " + pack_keyset(method, 7300000000000000007, relation, {1: (0, wal), 2: (3, later)}).hex()
        yield f"id {relation.hex()} {key_id(relation)}"
        kek = bytes(noise(size + 4, 32))
        yield f"wkey {kek.hex()} {relation.hex()} {wrap_wkey(kek, relation).hex()}"


def write_vectors(path):
    for name, rows in (("page", page_vectors), ("wal", wal_vectors), ("generation", generation_vectors), ("keyset", keyset_vectors)):
        with open(os.path.join(path, name + ".txt"), "w", encoding="ascii") as f:
            f.write("# Made by tests/decoder/decoder.py vectors, which shares no code with walcrypt. Regenerate, never edit.\n")
            for row in rows():
                f.write(row + "\n")


# The command


def command_page(args, keys):
    with open(args.file, "rb") as f:
        if os.fstat(f.fileno()).st_size != PAGE:
            f.seek(args.block % SEGMENT_BLOCKS * PAGE)
        page = f.read(PAGE)
    if len(page) != PAGE:
        raise Bad(f"{args.file} ends before block {args.block}")
    clear = decrypt_page(keys.relation, args.db, args.rel, args.block, FORKS[args.fork], args.temp, page)
    if any(clear):
        stored, want = struct.unpack_from("<H", clear, 8)[0], page_checksum(clear, args.block)
        print(f"checksum {'holds' if stored == want else f'is {stored:#x}, computed {want:#x}'}", file=sys.stderr)
    else:
        print("a zero page", file=sys.stderr)
    sys.stdout.buffer.write(clear)


def command_wal(args, keys):
    with open(args.file, "rb") as f:
        data = f.read()
    if args.page is not None:
        data = data[args.page * PAGE:(args.page + 1) * PAGE]
    sys.stdout.buffer.write(decrypt_wal(keys, data))


def command_lookfor(args, keys):
    found = False
    for name in args.file:
        with open(name, "rb") as f:
            if args.marker.encode() in decrypt_wal(keys, f.read()):
                print(name)
                found = True
    return 0 if found else 1


RELATION = re.compile(r"(?:base|pg_tblspc/\d+/PG_[^/]+)/(\d+)/([t0-9_]+?)(?:_(fsm|vm|init))?(?:\.(\d+))?$|global/(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?$")


def looks_like_page(page):
    """The header of an ordinary page: chance passes one in more than 2^40."""
    _, _, flags, lower, upper, special, version = struct.unpack_from("<QHHHHHH", page)
    return version == 0x2004 and flags < 8 and 24 <= lower <= upper <= special <= PAGE


def command_readable(args, keys):
    """How many pages of a data directory's relation files can be read with the keys, and how many there are."""
    readable = pages = 0
    for folder, _, names in os.walk(args.file, followlinks=True):
        for name in names:
            m = RELATION.search(os.path.relpath(os.path.join(folder, name), args.file))
            if m is None:
                continue
            db, rel, fork, segment = (int(m[1]), m[2], m[3], m[4]) if m[1] else (0, m[5], m[6], m[7])
            with open(os.path.join(folder, name), "rb") as f:
                data = f.read()
            for at in range(0, len(data) - PAGE + 1, PAGE):
                page = data[at:at + PAGE]
                if not any(page):
                    continue
                block = int(segment or 0) * SEGMENT_BLOCKS + at // PAGE
                pages += 1
                readable += looks_like_page(decrypt_page(keys.relation, db, int(rel.split("_")[-1]), block, FORKS[fork or "main"], rel.startswith("t"), page))
    print(readable, pages)


def command_keys(_args, keys):
    print(f"relation {key_id(keys.relation)}")
    for number, (after, key) in sorted(keys.epochs.items()):
        print(f"wal epoch {number} after timeline {after} {key_id(key)}")


def command_backup(args):
    with open(args.passphrase_file, "rb") as f:
        passphrase = f.read().split(b"\n")[0]
    with open(args.file, "rb") as f:
        data = f.read()
    for name, info, (method, identifier, relation, epochs) in open_backup(passphrase, data):
        print(f"keyset {name}: method {method} system {identifier} relation {key_id(relation)} cluster key {info['kek_id']}")
        for number, (after, key) in sorted(epochs.items()):
            print(f"keyset {name}: epoch {number} after timeline {after} {key_id(key)}")
    return 0


def main():
    parser = argparse.ArgumentParser(description="independent decoder of walcrypt's formats")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("keys", command_keys), ("page", command_page), ("wal", command_wal), ("lookfor", command_lookfor), ("readable", command_readable)):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        sub.add_argument("--key-dir", required=True)
        sub.add_argument("--kek-file", required=True)
        if name == "page":
            for option in ("--db", "--rel", "--block"):
                sub.add_argument(option, type=int, required=True)
            sub.add_argument("--fork", choices=FORKS, default="main")
            sub.add_argument("--temp", action="store_true")
        if name == "wal":
            sub.add_argument("--page", type=int)
        if name == "lookfor":
            sub.add_argument("--marker", required=True)
        if name != "keys":
            sub.add_argument("file", nargs="+" if name == "lookfor" else None)
    sub = commands.add_parser("backup")
    sub.add_argument("--passphrase-file", required=True)
    sub.add_argument("file")
    sub = commands.add_parser("vectors")
    sub.add_argument("dir")
    args = parser.parse_args()
    try:
        if args.command == "vectors":
            write_vectors(args.dir)
            return 0
        if args.command == "backup":
            return command_backup(args)
        return args.run(args, open_key_dir(args.key_dir, read_kek(args.kek_file))) or 0
    except (Bad, KeyError, OSError) as e:
        print(f"decoder.py: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
