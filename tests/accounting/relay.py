#!/usr/bin/env python3
"""relay: stands between a replication client and its server, passes every byte on, and records the WAL that goes by.

  relay.py --listen DIR:PORT --to DIR:PORT --source wire:NAME --tapes DIR

Both ends are Unix sockets of PostgreSQL's naming (DIR/.s.PGSQL.PORT), so nothing is encrypted on the way. It reads the
server's messages by itself: XLogData of a physical stream (CopyBoth), and WAL files inside the archives of a base backup
(CopyOut, tar). A page's header is taken from the stream; bytes before the first one seen are recorded as having none.
SIGTERM ends it; the tape is written through as the bytes pass.
"""
import argparse
import os
import re
import signal
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tape  # noqa: E402

PAGE = tape.PAGE


class Pages:
    """WAL bytes in order, cut at page boundaries, each with its page's header."""

    def __init__(self, writer, lock):
        self.writer, self.lock = writer, lock
        self.position = None
        self.header = None
        self.head = b""

    def feed(self, position, data):
        if position != self.position:
            self.header, self.head = None, b""
        while data:
            offset = position % PAGE
            piece = data[:PAGE - offset]
            if offset == 0:
                self.header, self.head = None, b""
            start = offset
            if self.header is None and (offset == 0 or self.head):
                # a header that comes in pieces is kept until it is whole
                piece_all = self.head + piece
                start = offset - len(self.head)
                if len(piece_all) < tape.HEADER:
                    self.head = piece_all
                    position += len(piece)
                    data = data[len(piece):]
                    continue
                self.header, self.head = piece_all[:tape.HEADER], b""
                record = piece_all
            else:
                record = piece
            with self.lock:
                self.writer.put(self.header or bytes(tape.HEADER), start, record)
            position += len(piece)
            data = data[len(piece):]
        self.position = position


class Tar:
    """The WAL files of a base backup's archive, as it streams by."""

    MEMBER = re.compile(rb"(?:\./)?pg_wal/[0-9A-F]{24}$")

    def __init__(self, writer, lock):
        self.writer, self.lock = writer, lock
        self.buffer = bytearray()
        self.left = 0      # of the member's data and padding
        self.size = 0
        self.pages = None
        self.at = 0

    def feed(self, data):
        self.buffer += data
        while True:
            if self.left:
                take = min(self.left, len(self.buffer))
                if not take:
                    return
                piece = bytes(self.buffer[:take])
                del self.buffer[:take]
                if self.pages is not None:
                    self.pages.feed(self.at, piece[:max(0, self.size - self.at)])
                self.at += take
                self.left -= take
                continue
            if len(self.buffer) < 512:
                return
            block = bytes(self.buffer[:512])
            del self.buffer[:512]
            if not any(block):
                continue
            name = block[:100].rstrip(b"\0")
            self.size = int(block[124:136].rstrip(b"\0 ") or b"0", 8)
            self.left = (self.size + 511) // 512 * 512
            self.at = 0
            self.pages = Pages(self.writer, self.lock) if self.MEMBER.match(name) and block[156:157] in (b"0", b"\0") else None


class Session:
    """One connection: the server's side is parsed, the client's only passed on."""

    def __init__(self, client, server, writer, lock):
        self.client, self.server = client, server
        self.buffer = bytearray()
        self.writer, self.lock = writer, lock
        self.mode = None
        self.pages = None
        self.tar = None

    def run(self):
        threading.Thread(target=self.pump, args=(self.client, self.server, None), daemon=True).start()
        self.pump(self.server, self.client, self.look)

    def pump(self, source, target, look):
        try:
            while True:
                data = source.recv(1 << 17)
                if not data:
                    break
                if look:
                    look(data)  # recorded before it is passed on
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def look(self, data):
        self.buffer += data
        while len(self.buffer) >= 5:
            kind = self.buffer[0:1]
            length = struct.unpack_from(">I", self.buffer, 1)[0]
            if len(self.buffer) < 1 + length:
                return
            self.message(kind, bytes(self.buffer[5:1 + length]))
            del self.buffer[:1 + length]

    def message(self, kind, body):
        if kind == b"W":
            self.mode, self.pages = "stream", Pages(self.writer, self.lock)
        elif kind == b"H":
            self.mode, self.tar = "backup", None
        elif kind in (b"c", b"C", b"Z"):
            self.mode = None
        elif kind == b"d" and self.mode == "stream" and body[:1] == b"w":
            start = struct.unpack_from(">Q", body, 1)[0]
            self.pages.feed(start, body[25:])
        elif kind == b"d" and self.mode == "backup":
            if body[:1] == b"n":
                self.tar = Tar(self.writer, self.lock)
            elif body[:1] == b"m":
                self.tar = None
            elif body[:1] == b"d" and self.tar is not None:
                self.tar.feed(body[1:])


def place(text):
    directory, port = text.rsplit(":", 1)
    return os.path.join(directory, f".s.PGSQL.{port}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--listen", "--to", "--source", "--tapes"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    writer = tape.Writer(args.tapes, args.source)
    lock = threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path = place(args.listen)
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen(16)
    try:
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(place(args.to))
            except OSError:
                client.close()
                server.close()
                continue
            threading.Thread(target=Session(client, server, writer, lock).run, daemon=True).start()
    finally:
        with lock:
            writer.close()


if __name__ == "__main__":
    sys.exit(main())
