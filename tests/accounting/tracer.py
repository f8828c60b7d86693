#!/usr/bin/env python3
"""tracer: run a server under strace, record every write to its pg_wal, and simulate a power loss after a kill -9.

  tracer.py --data DIR --source disk:NAME --tapes DIR [--events FILE] [--env NAME=VALUE]... -- postgres -D DIR ...

strace tells each system call that changes a file below DIR/pg_wal; the tracer keeps, for each file, what a reader sees now
and, for each 512-byte sector written since the file's last fsync, all that the sector may be after a power loss (the durable
bytes and each later write). Names made or removed since the directory's last fsync are kept likewise. It sees system calls,
so it shares no code with the storage layer that makes them.

When the server has ended, what the tracer thinks is in the files is compared with what is: a write that escaped it makes it
fail. Then, when DIR/../tear.<source> exists (the test writes a seed and a mode there before it kills), sectors written since
the last fsync become one of what they may be. One line of JSON per run goes to the events file.
"""
import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import powerloss  # noqa: E402
import tape  # noqa: E402
from image import PAGE, Image  # noqa: E402

CALLS = ("openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
         "unlink,unlinkat,truncate,ftruncate,fallocate,copy_file_range,sendfile,io_submit,io_uring_enter,sync,syncfs")
O_FLAGS_SYNC = re.compile(r"\bO_D?SYNC\b")

# a timeline history file is text, and goes through xlogtemp too
HISTORY_TEXT = re.compile(rb"(\d+\t[0-9A-F]+/[0-9A-F]+\t[^\n]*\n+)+")


class Trouble(Exception):
    pass


class Tracer:
    def __init__(self, data, source, tapes, stock=False, first=False):
        self.root = os.path.realpath(data)
        self.wal = os.path.join(self.root, "pg_wal")
        self.writer = tape.Writer(tapes, source)
        self.stock = stock
        self.files = {}     # path below pg_wal -> Image
        self.history = {}   # path -> what a power loss may leave there since the directory's fsync: [(when, Image or None)]
        self.positions = {}  # (pid, fd) -> where the next write() goes
        self.unseen = set() # files that got a write whose bytes could not be read
        self.pending = {}   # pid -> text of a call whose end has not been seen
        self.inflight = {}  # pid -> function that applies a write whose end has not been seen
        self.last = collections.deque(maxlen=40)
        self.clock = 0
        self.counts = dict.fromkeys(("writes", "bytes", "fsyncs", "recycled", "created", "removed", "journal", "history"), 0)
        self.scan(first)

    def scan(self, first):
        """What pg_wal holds before the server starts; all of it durable. first: nobody has put it on a tape yet."""
        for folder, _, names in os.walk(self.wal):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    self.files[path] = Image(f.read())
                if first and tape.WAL_NAME.fullmatch(name) and not HISTORY_TEXT.fullmatch(self.files[path].data):
                    data = self.files[path].data
                    for page in range(0, len(data), PAGE):
                        self.writer.put(data[page:page + tape.HEADER], 0, data[page:page + PAGE])

    # names

    def inside(self, path):
        return path.startswith(self.wal + "/")

    def absolute(self, path, base=None):
        return os.path.normpath(os.path.join(base or self.root, path))

    def name_changed(self, path, before):
        self.history.setdefault(path, [(-1, before)]).append((self.clock, self.files.get(path)))

    def directory_synced(self, path, when):
        for name in [n for n in self.history if os.path.dirname(n) == path]:
            kept = [h for h in self.history[name] if h[0] > when]
            if kept:
                base = [h for h in self.history[name] if h[0] <= when][-1]
                self.history[name] = [(-1, base[1])] + kept
            else:
                del self.history[name]

    # strace's words

    @staticmethod
    def text(word):
        """A string as strace -xx prints it."""
        return bytes.fromhex(word.replace("\\x", ""))

    def call(self, pid, name, args, result):
        """One system call, complete or (result None) seen only at its start."""
        if name == "???":
            return
        handler = getattr(self, "do_" + name, None)
        if handler is None:
            raise Trouble(f"the tracer does not know {name}({args[:200]}")
        if self.UNREADABLE.search(args) and self.unreadable(name, args):
            return
        if name.startswith(("pwrite", "write")) and self.NAMELESS.match(args):
            self.unseen_write(args)
            return
        try:
            handler(pid, args, result)
        except (AttributeError, ValueError, KeyError, IndexError) as fault:
            raise Trouble(f"the tracer cannot read {name}({args[:300]}) = {result}: {fault}") from fault

    FD = re.compile(r'(\d+)<([^>]*)>(\(deleted\))?')
    STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')

    # killed while strace looked: the descriptor's name is missing, or an address stands where a string should
    NAMELESS = re.compile(r"\d+, ")
    UNREADABLE = re.compile(r"(^|, |iov_base=)0x[0-9a-f]{6,}")

    def unreadable(self, name, args):
        """True when the call is dealt with: it changed nothing of ours, or the disk will tell what it changed."""
        if name.startswith("open") and "O_CREAT" not in args and "O_TRUNC" not in args:
            return True
        if name.startswith(("open", "creat", "rename", "link", "unlink", "truncate")):
            self.unsure = True
            return True
        if name.startswith(("pwrite", "write")):
            self.unseen_write(args)
            return True
        return False

    def unseen_write(self, args):
        _, path, _ = self.fd(args)
        if path is None:
            self.unseen.update(self.files)
        elif self.inside(path):
            self.unseen.add(path)

    def fd(self, args):
        match = self.FD.match(args)
        if not match:
            return None, None, args
        path = self.text(match.group(2)).decode("utf-8", "surrogateescape") if match.group(2).startswith("\\x") else ""
        return int(match.group(1)), path, args[match.end():].lstrip(", ")

    def image(self, path):
        if not self.inside(path):
            return None
        if path not in self.files:
            raise Trouble(f"write to {path}, of which no making was seen")
        return self.files[path]

    def do_openat(self, pid, args, result):
        if result is None or result < 0:
            return
        base, flags = None, args
        match = re.match(r'AT_FDCWD<([^>]*)>, ', args)
        if match:
            base = self.text(match.group(1)).decode()
            flags = args[match.end():]
        elif self.FD.match(args):
            _, base, flags = self.fd(args)
        match = self.STRING.match(flags)
        path = self.absolute(self.text(match.group(1)).decode("utf-8", "surrogateescape"), base)
        flags = flags[match.end():]
        self.positions[(pid, result)] = 0
        if not self.inside(path):
            return
        if O_FLAGS_SYNC.search(flags):
            raise Trouble(f"{path} opened with O_SYNC or O_DSYNC: use wal_sync_method = fdatasync")
        if path not in self.files:
            if "O_CREAT" not in flags:
                return
            self.files[path] = Image()
            self.counts["created"] += 1
            self.name_changed(path, None)
        elif "O_TRUNC" in flags:
            # the old contents may come back with the old size; the name keeps both
            before = self.files[path]
            self.files[path] = Image()
            self.name_changed(path, before)

    def do_open(self, pid, args, result):
        self.do_openat(pid, args, result)

    def do_creat(self, pid, args, result):
        match = self.STRING.match(args)
        self.do_openat(pid, f'"{match.group(1)}", O_CREAT|O_TRUNC', result)

    def put(self, path, image, offset, data):
        """The write happens: onto the tape, then into the image."""
        self.counts["writes"] += 1
        self.counts["bytes"] += len(data)
        old = bytes(image.data[offset:offset + len(data)])
        old += bytes(len(data) - len(old))
        before = {p: bytes(image.data[p:p + tape.HEADER]) for p in range(offset // PAGE * PAGE, offset + len(data), PAGE)}
        image.write(offset, data, self.clock)
        name = os.path.basename(path)
        if not tape.WAL_NAME.fullmatch(name):
            if not path.startswith(self.wal + "/archive_status/"):
                self.counts["journal"] += 1
                self.journal(image)
            return
        if HISTORY_TEXT.fullmatch(image.data):
            self.counts["history"] += 1
            return
        for page, header_before in before.items():
            header = bytes(image.data[page:page + tape.HEADER])
            header += bytes(tape.HEADER - len(header))
            start, end = max(page, offset), min(page + PAGE, offset + len(data))
            if header == header_before:
                changed = tape.changed_range(old[start - offset:end - offset], data[start - offset:end - offset])
                if changed is None:
                    continue
                start, end = start + changed[0], start + changed[1]
            # whole granules, completed from what stands in the file
            start, end = start & ~7, min((end + 7) & ~7, len(image.data))
            self.writer.put(header, start - page, image.data[start:end])

    def journal(self, image):
        """The page journal's image of a WAL page reaches the disk like any other write; it is found by its header."""
        data = bytes(image.data)
        for at in range(0, len(data) - PAGE + 1, 8):
            if data[at + 1] == 0xD1:
                header = tape.Header(data[at:at + tape.HEADER])
                if header.kind == tape.ENCRYPTED:
                    self.writer.put(data[at:at + tape.HEADER], 0, data[at:at + PAGE])
                    return

    def written(self, pid, path, offset, data, result):
        image = self.image(path)
        if image is None:
            return
        if result is None:
            # killed in the middle: the file itself tells at the end whether it happened
            self.inflight[pid] = (path, offset, data)
        elif result > 0:
            self.clock += 1
            self.put(path, image, offset, data[:result])

    def do_pwrite64(self, pid, args, result):
        _, path, rest = self.fd(args)
        if not path or not self.inside(path):
            return
        match = self.STRING.match(rest)
        if match.group(2):
            raise Trouble("strace cut a write short: raise -s")
        size, offset = re.match(r", (\d+), (\d+)", rest[match.end():]).groups()
        self.written(pid, path, int(offset), self.text(match.group(1))[:int(size)], result)

    def vector(self, rest):
        if re.search(r'"\.\.\.', rest) or ", ...]" in rest:
            raise Trouble("strace cut a vector short: raise -s")
        data = b"".join(self.text(m) for m in re.findall(r'iov_base="((?:\\x[0-9a-f]{2})*)"', rest))
        return data, rest[rest.rindex("]") + 1:]

    def do_pwritev(self, pid, args, result):
        _, path, rest = self.fd(args)
        if not path or not self.inside(path):
            return
        data, rest = self.vector(rest)
        offset = int(re.match(r", \d+, (\d+)", rest).group(1))
        self.written(pid, path, offset, data, result)

    do_pwritev2 = do_pwritev

    def do_write(self, pid, args, result):
        number, path, rest = self.fd(args)
        if not path or not self.inside(path):
            return
        match = self.STRING.match(rest)
        if match.group(2):
            raise Trouble("strace cut a write short: raise -s")
        at = self.positions.get((pid, number), 0)
        self.written(pid, path, at, self.text(match.group(1)), result)
        self.positions[(pid, number)] = at + max(result or 0, 0)

    def do_writev(self, pid, args, result):
        number, path, rest = self.fd(args)
        if not path or not self.inside(path):
            return
        data, _ = self.vector(rest)
        at = self.positions.get((pid, number), 0)
        self.written(pid, path, at, data, result)
        self.positions[(pid, number)] = at + max(result or 0, 0)

    def do_fsync(self, pid, args, result):
        # taken whatever became of it: the next one of this process has a beginning of its own
        when = self.sync_started.pop(pid, self.clock)
        _, path, _ = self.fd(args)
        if not path or result != 0:
            return
        if path == self.wal:
            self.directory_synced(path, when)
        elif self.inside(path) and path in self.files:
            self.counts["fsyncs"] += 1
            self.files[path].synced(when)

    do_fdatasync = do_fsync

    def move(self, old, new, keep_old):
        image = self.files.get(old)
        if image is None:
            if self.inside(new):
                raise Trouble(f"{old} became {new}, and its contents were not seen")
            return
        self.clock += 1
        if self.inside(new):
            before = self.files.get(new)
            self.files[new] = image
            self.name_changed(new, before)
            if re.fullmatch(r"[0-9A-F]{24}", os.path.basename(old)) and re.fullmatch(r"[0-9A-F]{24}", os.path.basename(new)):
                self.counts["recycled"] += 1
        if not keep_old:
            del self.files[old]
            self.name_changed(old, image)

    def two_paths(self, args):
        return [self.absolute(self.text(m[0]).decode("utf-8", "surrogateescape")) for m in self.STRING.findall(args)]

    def do_rename(self, pid, args, result):
        if result == 0:
            old, new = self.two_paths(args)
            self.move(old, new, False)

    do_renameat = do_renameat2 = do_rename

    def do_link(self, pid, args, result):
        if result == 0:
            old, new = self.two_paths(args)
            self.move(old, new, True)

    do_linkat = do_link

    def do_unlink(self, pid, args, result):
        if result != 0:
            return
        base = None
        match = re.match(r'AT_FDCWD<([^>]*)>, ', args)
        if match:
            base = self.text(match.group(1)).decode()
        elif self.FD.match(args):
            _, base, _ = self.fd(args)
        path = self.absolute(self.text(self.STRING.search(args).group(1)).decode("utf-8", "surrogateescape"), base)
        if path in self.files:
            self.clock += 1
            self.counts["removed"] += 1
            before = self.files.pop(path)
            self.name_changed(path, before)

    do_unlinkat = do_unlink

    def do_ftruncate(self, pid, args, result):
        _, path, rest = self.fd(args)
        if result == 0 and path and self.inside(path):
            self.image(path).resize(int(rest.rstrip(")")))

    def do_truncate(self, pid, args, result):
        match = self.STRING.match(args)
        path = self.absolute(self.text(match.group(1)).decode("utf-8", "surrogateescape"))
        if result == 0 and self.inside(path):
            self.image(path).resize(int(args[match.end():].lstrip(", ")))

    def do_fallocate(self, pid, args, result):
        _, path, rest = self.fd(args)
        if result == 0 and path and self.inside(path):
            mode, offset, size = rest.split(", ")
            if mode != "0":
                raise Trouble(f"fallocate mode {mode} on {path}")
            image = self.image(path)
            if int(offset) + int(size) > len(image.data):
                image.resize(int(offset) + int(size))

    def refuse(self, what, args):
        for match in re.finditer(r"<((?:\\x[0-9a-f]{2})+)>", args):
            if self.inside(self.text(match.group(1)).decode("utf-8", "surrogateescape")):
                raise Trouble(f"{what} on a file of pg_wal: not seen by this tracer")

    def do_syncfs(self, pid, args, result):
        when = self.sync_started.pop(pid, self.clock)
        for image in self.files.values():
            image.synced(when)
        self.directory_synced(self.wal, when)

    do_sync = do_syncfs

    def do_copy_file_range(self, pid, args, result):
        self.refuse("copy_file_range", args)

    def do_sendfile(self, pid, args, result):
        self.refuse("sendfile", args)

    def do_io_submit(self, pid, args, result):
        self.refuse("io_submit", args)

    def do_io_uring_enter(self, pid, args, result):
        raise Trouble("io_uring: its writes are not seen by this tracer")

    # the trace

    LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+|\?\?\?) resumed>(.*)|(\w+|\?\?\?)\((.*)|(\+\+\+|---).*)\n?$", re.S)
    NO_ERRNO = re.compile(r"\(errno \d{5,}\)\s*$")
    # another process went first, or this one was killed inside the call
    CUT = re.compile(r" ?<(unfinished|detached) \.\.\.>\s*$")
    RESULT = re.compile(r"\)\s+= (-?\d+|\?)(?:<[^>]*>(?:\(deleted\))?)?(?: .*)?$", re.S)

    def feed(self, lines):
        self.sync_started = {}
        for line in lines:
            self.last.append(line[:60] + " ... " + line[-60:])
            match = self.LINE.match(line)
            if not match:
                if line.strip() and not line.startswith("strace:"):
                    raise Trouble(f"strace said: {line[:300]}")
                continue
            pid = int(match.group(1))
            if match.group(6):
                if match.group(6) == "+++":
                    self.ended(pid)
                continue
            if match.group(2):
                # "<... ??? resumed>": killed at the call's entry, which may have been shown or not
                begun = self.pending.pop(pid, (None, ""))
                name, rest = begun[0] if match.group(2) == "???" and begun[0] else match.group(2), begun[1] + match.group(3)
                self.inflight.pop(pid, None)
            else:
                name, rest = match.group(4), match.group(5)
                cut = self.CUT.search(rest[-40:])
                if cut:
                    rest = rest[:len(rest) - len(rest[-40:]) + cut.start()]
                    self.pending[pid] = (name, rest)
                    if name in ("fsync", "fdatasync", "syncfs", "sync"):
                        self.sync_started[pid] = self.clock
                    continue
            cut = self.CUT.search(rest[-40:])
            if cut:
                self.pending[pid] = (name, rest[:len(rest) - len(rest[-40:]) + cut.start()])
                continue
            end = self.RESULT.search(rest[-4096:])
            if not end:
                raise Trouble(f"no result in: {name}({rest[:200]} ... {rest[-200:]}")
            cut = len(rest) - len(rest[-4096:]) + end.start()
            # killed inside: no result, or a register that could not be read any more
            if end.group(1) == "?" or self.NO_ERRNO.search(rest[-80:]):
                self.pending[pid] = (name, rest[:cut])
                continue
            self.call(pid, name, rest[:cut], int(end.group(1)))
        for pid in list(self.pending):
            self.ended(pid)

    def ended(self, pid):
        self.sync_started.pop(pid, None)
        if pid in self.pending:
            name, rest = self.pending.pop(pid)
            # "???(": killed before strace could see what it was about to call
            if name.startswith(("pwrite", "write")):
                self.call(pid, name, rest.rstrip(" )"), None)
            elif name.startswith(("rename", "link", "unlink", "ftruncate", "open", "creat")):
                self.unsure = True
        for key in [k for k in self.positions if k[0] == pid]:
            del self.positions[key]

    unsure = False

    # after the end

    def compare(self):
        """What we think is there and what is there: a write that escaped the tracer is a fault of the test."""
        for pid, (path, offset, data) in self.inflight.items():
            image = self.files.get(path)
            with open(path, "rb") as f:
                f.seek(offset)
                now = f.read(len(data))
            # the kernel copies page by page: what has arrived is a beginning
            done = 0
            while done < len(data) and now[done:done + 4096] == data[done:done + 4096]:
                done += 4096
            self.clock += 1
            if done:
                self.put(path, image, offset, data[:done])
        there = {}
        for folder, _, names in os.walk(self.wal):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    there[path] = f.read()
        if self.unsure:
            # killed inside a change of names: the disk decides
            for path in set(there) ^ set(self.files):
                if path in there:
                    self.files[path] = Image(there[path])
                else:
                    del self.files[path]
                self.history.pop(path, None)
        for path in sorted(set(there) | set(self.files)):
            ours = bytes(self.files[path].data) if path in self.files else None
            theirs = there.get(path)
            if theirs != ours:
                if path in self.unseen and theirs is not None and ours is not None and len(theirs) == len(ours):
                    first, last = tape.changed_range(ours, theirs)
                    self.clock += 1
                    self.put(path, self.files[path], first, theirs[first:last])
                    continue
                if self.stock and theirs is not None and ours is not None and len(theirs) == len(ours):
                    self.files[path].data[:] = theirs
                    continue
                if theirs is None or ours is None or len(theirs) != len(ours):
                    raise Trouble(f"{path} has {theirs and len(theirs)} bytes, the trace tells of {ours and len(ours)}")
                first, last = tape.changed_range(ours, theirs)
                raise Trouble(f"{path} holds what the trace does not tell, bytes {first:#x} to {last:#x}: {theirs[first:first + 16].hex()}, "
                              f"not {ours[first:first + 16].hex()}; header {theirs[first // PAGE * PAGE:][:24].hex()}, "
                              f"not {ours[first // PAGE * PAGE:][:24].hex()}; the last calls: {self.last}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--tapes", required=True)
    parser.add_argument("--events", required=True)
    parser.add_argument("--log", required=True, help="the server's standard output and error")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--stock", action="store_true",
                        help="no storage layer: WAL buffers go on changing while the kernel copies them, the disk decides")
    parser.add_argument("--first", action="store_true", help="the directory is new here: what pg_wal holds goes on the tape")
    parser.add_argument("--sync-delay", type=int, default=0, help="microseconds that each fdatasync waits before it begins: more to tear")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    # a terminal's ^C is for the test, which ends the server; we end when the server has
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tracer = Tracer(args.data, args.source, args.tapes, args.stock, args.first)
    order = f"{args.data.rstrip('/')}/../tear.{args.source.replace(':', '-')}"
    if os.path.exists(order):
        os.unlink(order)
    event = {"source": args.source}
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        fifo = os.path.join(folder, "trace")
        os.mkfifo(fifo, 0o600)
        strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-xx", "-v", "-s", "1200000", "-e", "signal=none",
                  "-e", "trace=" + CALLS, "-o", fifo]
        if args.sync_delay:
            strace += ["-e", f"inject=fdatasync:delay_enter={args.sync_delay}"]
            # the fsyncs of a start are many; the directory's alone are what a journal waits for
            strace += ["-e", f"inject=fsync:delay_enter={args.sync_delay // 4}"]
        for setting in args.env:
            strace += ["-E", setting]
        log = open(args.log, "ab")
        child = subprocess.Popen(strace + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            with open(fifo, "r", encoding="ascii", errors="replace", buffering=1 << 20) as trace:
                try:
                    tracer.feed(trace)
                except BaseException:
                    for _ in trace:  # let the server go on: the test ends it
                        pass
                    raise
            child.wait()
            tracer.compare()
            if os.path.exists(order):
                with open(order) as f:
                    seed, mode = f.read().split()
                event.update(seed=seed, mode=mode, torn=powerloss.tear(tracer, seed, mode))
                os.unlink(order)
        except Exception as trouble:  # pylint: disable=broad-except
            import traceback
            traceback.print_exc()
            event["trouble"] = f"{type(trouble).__name__}: {trouble}"
            status = 1
        child.wait()
        log.close()
    tracer.writer.close()
    event.update(tracer.counts, tape=os.path.basename(tracer.writer.path), status=child.returncode)
    with open(args.events, "a") as f:
        f.write(json.dumps(event) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
