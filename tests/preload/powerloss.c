/*
 * A power loss at a chosen step of the WAL page journal, for tests/t/108_storage_journal.pl. Preloaded in front of the
 * storage layer, it sees each syscall(), by which the layer (and nothing else in a server) touches files.
 *
 * POWERLOSS names a file of struct order that the test writes and reads. Steps are the calls from the making (or the
 * replay) of the journal to the fsync of the directory behind its removal: open, write, fsync, unlink. At the ordered
 * step the process stays where it is for good, and the test kills the server:
 *
 *   LOST   the step is not done, and of what is not yet synced each sector (or name) is lost or not, by chance
 *
 *   TORN   a write is done in part, each sector by chance; another step is done
 *
 * Every write of WAL by the layer goes onto a tape for the accountant (tests/accounting/tape.py).
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "syscall.h"

#define JOURNAL "pgsql_tmp_walcrypt.journal"
#define JOURNAL_LEN 8264
#define JOURNAL_PAGE_AT 72
#define PAGE 8192
#define SECTOR 512

enum mode { LOST, TORN };

struct order {
	uint32_t step, mode, seed; /* step 0: none, only count */
	uint32_t count;            /* steps seen */
	uint32_t frozen;           /* 1: now */
	char what[64];             /* the step that it froze at */
};

static struct order *order;
static int tape = -1;
static uint64_t chance_state;

static struct {
	bool on, removed; /* between the first step and the last; the journal is unlinked */
	int fd;           /* of the last write that is not synced; -1: none */
	off_t off;
	size_t len;
	uint8_t old[JOURNAL_LEN];
	size_t old_len; /* what of it was there */
	bool name;      /* a name in the directory is not synced */
	char path[4096];
	uint8_t journal[JOURNAL_LEN]; /* its contents */
	size_t journal_len;
} path = {.fd = -1};

static void
set_up(void)
{
	const char *file = getenv("POWERLOSS"), *tapes = getenv("POWERLOSS_TAPE");
	int fd;

	if (file == NULL || (fd = (int)real(SYS_openat, AT_FDCWD, file, O_RDWR, 0)) < 0)
		return;
	order = mmap(NULL, sizeof(*order), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	real(SYS_close, fd);
	if (tapes != NULL)
		tape = (int)real(SYS_openat, AT_FDCWD, tapes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static bool
chance(void)
{
	chance_state = chance_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return chance_state >> 63;
}

/* One piece of a page, with the header that stands or will stand in front of it. */
static void
tape_put(const uint8_t *header, size_t in_page, const uint8_t *data, size_t len)
{
	uint8_t record[31 + PAGE];
	uint32_t rest = (uint32_t)(27 + len);
	uint16_t info, at = (uint16_t)in_page;

	memcpy(&info, header + 2, 2);
	memcpy(record, &rest, 4);
	record[4] = header[1] != 0xD1 ? 3 : info & 0x8000 ? 1 : 2;
	memcpy(record + 5, &at, 2);
	memcpy(record + 7, header, 24);
	memcpy(record + 31, data, len);
	for (size_t i = 0; i < len; i++)
		if (data[i] != 0) { /* zeros say nothing */
			real(SYS_write, tape, record, 31 + len);
			return;
		}
}

static bool
is_wal(int fd, char name[static 4096])
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, name, 4095);
	name[n > 0 ? n : 0] = '\0';
	return strstr(name, "/pg_wal/") != NULL;
}

static void
on_tape(int fd, const uint8_t *data, size_t len, off_t off)
{
	char name[4096];

	if (tape < 0 || !is_wal(fd, name) || strstr(name, ".history") != NULL)
		return;
	if (strstr(name, JOURNAL) != NULL) {
		if (len == JOURNAL_LEN && data[JOURNAL_PAGE_AT + 1] == 0xD1)
			tape_put(data + JOURNAL_PAGE_AT, 0, data + JOURNAL_PAGE_AT, PAGE);
		return;
	}
	while (len > 0) {
		size_t in_page = (size_t)(off % PAGE), n = PAGE - in_page < len ? PAGE - in_page : len;
		uint8_t header[24] = {0};

		if (in_page == 0)
			memcpy(header, data, n < sizeof(header) ? n : sizeof(header));
		else if (real(SYS_pread64, fd, header, sizeof(header), off - (off_t)in_page) < 0)
			abort();
		tape_put(header, in_page, data, n);
		data += n;
		len -= n;
		off += (off_t)n;
	}
}

static bool
is_dir(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

/* What the disk forgets of a write: each sector by chance. */
static void
lose_write(void)
{
	for (size_t at = 0; at < path.len; at += SECTOR) {
		size_t n = path.len - at < SECTOR ? path.len - at : SECTOR;

		if (chance())
			continue;
		if (at + n <= path.old_len)
			real(SYS_pwrite64, path.fd, path.old + at, n, path.off + (off_t)at);
		else { /* it was behind the end of the file: zeros, or nothing */
			uint8_t zero[SECTOR] = {0};

			real(SYS_pwrite64, path.fd, zero, n, path.off + (off_t)at);
		}
	}
	if (path.old_len == 0 && chance())
		real(SYS_ftruncate, path.fd, (long)(chance() ? path.len / 2 : 0));
}

static void
lose_name(void)
{
	if (chance())
		return;
	if (path.removed) {
		int fd = (int)real(SYS_openat, AT_FDCWD, path.path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

		real(SYS_pwrite64, fd, path.journal, path.journal_len, 0);
		real(SYS_close, fd);
	} else
		real(SYS_unlinkat, AT_FDCWD, path.path, 0);
}

static void
freeze(const char *what)
{
	snprintf(order->what, sizeof(order->what), "%s", what);
	__atomic_store_n(&order->frozen, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

/* One more step: is it the one? */
static bool
step(const char *what)
{
	uint32_t n = __atomic_add_fetch(&order->count, 1, __ATOMIC_SEQ_CST);

	if (n != order->step)
		return false;
	chance_state = order->seed;
	for (int i = 0; i < 8; i++)
		chance();
	if (order->mode == LOST) {
		if (path.fd >= 0)
			lose_write();
		if (path.name)
			lose_name();
		freeze(what);
	}
	return true;
}

static long
opened(const char *name, int flags, long mode)
{
	bool journal = strstr(name, JOURNAL) != NULL, make = journal && (flags & O_CREAT) != 0, last = false;
	long fd;

	if (make) {
		path.on = true;
		path.removed = false;
		snprintf(path.path, sizeof(path.path), "%s", name);
		last = step("make the journal");
		path.name = true;
	}
	fd = real(SYS_openat, AT_FDCWD, name, flags, mode);
	if (journal && !make && fd >= 0 && (flags & O_ACCMODE) == O_RDONLY) { /* replay */
		path.on = true;
		path.removed = false;
		snprintf(path.path, sizeof(path.path), "%s", name);
		path.journal_len = (size_t)real(SYS_pread64, fd, path.journal, JOURNAL_LEN, 0);
	}
	if (last)
		freeze("make the journal");
	return fd;
}

/* What a power loss may bring back. The descriptor may be one for writing only. */
static void
keep_old(int fd, size_t len, off_t off)
{
	char link[32];
	int again;
	long n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	again = (int)real(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
	n = real(SYS_pread64, again, path.old, len, off);
	real(SYS_close, again);
	path.old_len = n > 0 ? (size_t)n : 0;
}

static long
written(int fd, const uint8_t *data, size_t len, off_t off)
{
	char name[4096];
	bool journal;

	if (!path.on || len > JOURNAL_LEN || !is_wal(fd, name))
		return real(SYS_pwrite64, fd, data, len, off);
	journal = strstr(name, JOURNAL) != NULL;
	if (journal) {
		memcpy(path.journal, data, len);
		path.journal_len = len;
	}
	if (step(journal ? "write the journal" : "write the page")) { /* torn */
		for (size_t at = 0; at < len; at += SECTOR)
			if (chance())
				real(SYS_pwrite64, fd, data + at, len - at < SECTOR ? len - at : SECTOR, off + (off_t)at);
		freeze(journal ? "write the journal" : "write the page");
	}
	keep_old(fd, len, off);
	path.fd = fd;
	path.off = off;
	path.len = len;
	return real(SYS_pwrite64, fd, data, len, off);
}

static long
synced(long call, int fd)
{
	bool dir = is_dir(fd), last;
	long rc;

	if (!path.on)
		return real(call, fd);
	last = step(dir ? path.removed ? "fsync the directory behind the end" : "fsync the directory" : "fsync a file");
	rc = real(call, fd);
	if (last)
		freeze("fsync");
	if (dir) {
		path.name = false;
		if (path.removed)
			path.on = false;
	} else
		path.fd = -1;
	return rc;
}

static long
unlinked(const char *name, long flags)
{
	bool last = false;
	long rc;

	if (path.on && strstr(name, JOURNAL) != NULL)
		last = step("remove the journal");
	rc = real(SYS_unlinkat, AT_FDCWD, name, flags);
	if (path.on && strstr(name, JOURNAL) != NULL) {
		path.removed = true;
		path.name = true;
	}
	if (last)
		freeze("remove the journal");
	return rc;
}

static long
on_syscall(long call, const long a[static 6])
{
	static bool begun;

	if (!begun) {
		begun = true; /* first: the layer calls us from its mmap */
		set_up();
	}
	if (order == NULL)
		return pass(call, a);
	switch (call) {
	case SYS_openat:
		if ((int)a[0] == AT_FDCWD)
			return opened((const char *)a[1], (int)a[2], a[3]);
		break;
	case SYS_pwrite64:
		on_tape((int)a[0], (const uint8_t *)a[1], (size_t)a[2], (off_t)a[3]);
		return written((int)a[0], (const uint8_t *)a[1], (size_t)a[2], (off_t)a[3]);
	case SYS_fsync:
	case SYS_fdatasync:
		return synced(call, (int)a[0]);
	case SYS_unlinkat:
		return unlinked((const char *)a[1], a[2]);
	}
	return pass(call, a);
}
