#!/usr/bin/env python3
"""Which of a key directory's secrets are in files: cluster key, data keys, derived keys, and the round keys of each AES key.

  leaks.py --key-dir DIR --kek-file F FILE...      one line "FILE: NAME" for each that is found; exit 0 when none is, 1 otherwise

A file is read in pieces, so a core may be of any size. Keys are looked for as raw bytes and as hex digits.
"""
import argparse
import mmap
import os
import sys

import decoder

SBOX = None


def sbox():
    """AES's S-box from its definition (FIPS 197): the inverse in GF(2^8), then an affine map."""
    inverse, p, q = [0] * 256, 1, 1
    while True:
        p ^= (p << 1) ^ (0x11B if p & 0x80 else 0)
        p &= 0xFF
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        if q & 0x80:
            q ^= 0x09
        rotated = q ^ (q << 1 | q >> 7) ^ (q << 2 | q >> 6) ^ (q << 3 | q >> 5) ^ (q << 4 | q >> 4)
        inverse[p] = (rotated ^ 0x63) & 0xFF
        if p == 1:
            break
    inverse[0] = 0x63
    return inverse


def round_keys(key):
    global SBOX
    SBOX = SBOX or sbox()
    words = [key[i:i + 4] for i in range(0, len(key), 4)]
    size, rcon = len(words), 1
    for i in range(size, 4 * (size + 7)):
        word = words[i - 1]
        if i % size == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ rcon]) + word[1:]
            rcon = (rcon << 1) ^ (0x11B if rcon & 0x80 else 0)
        elif size > 6 and i % size == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[i - size], word)))
    schedule = b"".join(words)
    return [schedule[i:i + 16] for i in range(0, len(schedule), 16)]


def needles(kek, keys):
    found = {"cluster key": kek, "relation key": keys.relation}
    full = decoder.derive(keys.relation, "walcrypt page xts v1", 32 if len(keys.relation) == 16 else 64)
    found["first XTS key"], found["second XTS key"] = full[:len(full) // 2], full[len(full) // 2:]
    lasting = decoder.derive(keys.relation, "walcrypt lasting file v1", 128)
    found["lasting key"] = lasting[:32]
    for number, (_, key) in keys.epochs.items():
        found[f"WAL key of epoch {number}"] = key
        found[f"CTR key of epoch {number}"] = decoder.derive(key, "walcrypt wal ctr v1", len(key))
    for name, key in list(found.items()):
        found[f"{name} in hex"] = key.hex().encode()
        for i, round_key in enumerate(round_keys(key)):
            found[f"round key {i} of the {name}"] = round_key
    return found


# FIPS 197, appendix A.1
assert round_keys(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"))[10].hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--key-dir", required=True)
    parser.add_argument("--kek-file", required=True)
    parser.add_argument("file", nargs="+")
    args = parser.parse_args()
    kek = decoder.read_kek(args.kek_file)
    want = needles(kek, decoder.open_key_dir(args.key_dir, kek))
    found = 0
    for name in args.file:
        with open(name, "rb") as f:
            if os.fstat(f.fileno()).st_size > 0:
                data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            else: # /proc
                data = f.read()
            for what, needle in want.items():
                if data.find(needle) >= 0:
                    print(f"{name}: {what}")
                    found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
