/* ledger: what was sent is told from what was not, after every kind of stop. docs/formats/ledger.md */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keymgr/ledger.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"

#define SEGMENT (1u << 20)
#define LEN (6 * SEGMENT)

static uint8_t wal[LEN], other[LEN];
static const struct data_key key = {.len = 32, .bytes = {1, 2, 3}};
static const struct ledger_line line = {.system_identifier = 7, .tli = 1, .key_id = {9}};
static char path[64];

static struct ledger *
open_it(void)
{
	struct err err = {0};
	struct ledger *l = ledger_open(path, &err);

	if (l == NULL) {
		printf("Bail out! %s\n", err.text);
		exit(1);
	}
	return l;
}

static struct ledger_place
find(struct ledger *l, const char **why)
{
	struct ledger_place p = {0};
	struct err err = {0};

	if (ledger_find(l, &line, &p, why, &err) != 0)
		printf("# %s\n", err.text);
	return p;
}

/* Send bytes [from, to) of data in pieces of step; from begins a segment. 0, or -1 with err. */
static int
send_wal(struct ledger *l, const struct ledger_place *p, const uint8_t *data, size_t from, size_t to, size_t step,
         struct err *err)
{
	struct ledger_trace *t = ledger_trace_new(l, &line, p, &key, SEGMENT, err);
	int rc = t == NULL ? -1 : 0;

	for (size_t at = from; rc == 0 && at < to; at += step)
		rc = ledger_trace_record(t, at, data + at, to - at < step ? to - at : step, err);
	ledger_trace_free(t);
	return rc;
}

/* 1: the upstream, which has data, passes the check; 0: it does not; -1: it was not reached. */
static int
check(struct ledger *l, const struct ledger_place *p, const uint8_t *data, size_t step)
{
	struct err err = {0};
	struct ledger_trace *t = ledger_trace_new(l, &line, p, &key, SEGMENT, &err);
	bool done = false, same = false;

	for (size_t at = ledger_check_start(p, SEGMENT, ledger_check_before(p, SEGMENT)); !done && at < LEN; at += step)
		if (ledger_trace_check(t, at, data + at, step, &done, &same, &err) != 0)
			printf("# %s\n", err.text);
	ledger_trace_free(t);
	return !done ? -1 : same;
}

static void
renew(struct ledger *l)
{
	struct err err = {0};
	const char *why;
	struct ledger_place p = find(l, &why), q;

	ledger_renew(l, &line, p.incarnation, &q, &err);
}

static void
test_life(void)
{
	struct err err = {0};
	struct ledger *l = open_it();
	const char *why;
	struct ledger_place p = find(l, &why), q;

	is_str(why, "it is seen for the first time", "a new line");
	is_int(p.position, 0, "nothing was sent");
	ok(ledger_open(path, &err) == NULL, "a second opening is refused");
	is_err(&err, ERR_REFUSED, "in use by another process", "and named");
	is_int(send_wal(l, &p, wal, SEGMENT, 2 * SEGMENT + 5000, 777, &err), 0, "sending");
	q = find(l, &why);
	ok(why == NULL && q.incarnation == p.incarnation, "the same incarnation");
	is_int(q.position, 2 * SEGMENT + 5000, "the position");
	is_int(check(l, &q, wal, 4096), 1, "the same bytes pass");
	is_int(check(l, &q, wal, 1 << 20), 1, "in other pieces too");
	is_int(check(l, &q, other, 4096), 0, "others do not");
	is_int(ledger_close(l, &err), 0, "a clean end");
	l = open_it();
	q = find(l, &why);
	ok(why == NULL && q.incarnation == p.incarnation && q.position == 2 * SEGMENT + 5000, "all is there after it");
	is_int(send_wal(l, &q, wal, SEGMENT, 2 * SEGMENT, 8192, &err), 0, "sending again what was sent");
	is_int(find(l, &why).position, 2 * SEGMENT + 5000, "moves nothing");
	/* a line for each identity */
	for (int i = 0; i < 4; i++) {
		struct ledger_line x = line;

		switch (i) {
		case 0:
			x.system_identifier++;
			break;
		case 1:
			x.tli++;
			break;
		case 2:
			x.history_sha256[31]++;
			break;
		default:
			x.key_id[0]++;
			break;
		}
		ledger_find(l, &x, &q, &why, &err);
		ok(why != NULL && q.incarnation != p.incarnation, "another line, number %d", i);
	}
	ledger_close(l, &err);
}

/* The end of the process loses nothing. */
static void
test_kill(void)
{
	struct err err = {0};
	const char *why;
	struct ledger *l;
	struct ledger_place p;
	pid_t pid = fork();

	if (pid == 0) {
		l = open_it();
		p = find(l, &why);
		send_wal(l, &p, wal, 2 * SEGMENT, 3 * SEGMENT + 100000, 8192, &err);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	l = open_it();
	p = find(l, &why);
	ok(why == NULL, "no new incarnation");
	is_int(p.position, 3 * SEGMENT + 100000, "the position is there");
	is_int(check(l, &p, wal, 8192), 1, "and the HMAC");
	ledger_close(l, &err);
}

/* Two histories that part in one segment and begin the next one alike. */
static void
test_alike(void)
{
	static uint8_t alike[LEN];
	struct err err = {0};
	const char *why;
	struct ledger *l = open_it();
	struct ledger_place p;

	renew(l);
	p = find(l, &why);
	memcpy(alike, wal, LEN);
	alike[SEGMENT + 70000] ^= 1;
	send_wal(l, &p, wal, SEGMENT, 2 * SEGMENT + 200, 1000, &err);
	p = find(l, &why);
	ok(p.has_before, "the segment before is known");
	is_int(check(l, &p, alike, 8192), 0, "a difference in it is found");
	is_int(check(l, &p, wal, 8192), 1, "the same passes");
	/* of one whose position is a segment's end */
	renew(l);
	p = find(l, &why);
	send_wal(l, &p, wal, SEGMENT, 2 * SEGMENT, 1000, &err);
	p = find(l, &why);
	is_int(check(l, &p, alike, 8192), 0, "a segment that ends at the position is looked at");
	/* another session goes on where that one ended, from the segment's start */
	send_wal(l, &p, wal, 2 * SEGMENT, 2 * SEGMENT + 200, 8192, &err);
	p = find(l, &why);
	ok(p.has_before, "what one session knows of a segment the next one keeps");
	is_int(check(l, &p, alike, 8192), 0, "and finds the difference");
	/* or somewhere else */
	send_wal(l, &p, wal, 4 * SEGMENT, 4 * SEGMENT + 200, 8192, &err);
	p = find(l, &why);
	ok(!p.has_before, "of a segment that nobody sent whole nothing is known");
	is_int(check(l, &p, wal, 8192), 1, "and the check does without");
	ledger_close(l, &err);
}

/* Two sessions at once. */
static void
test_two(void)
{
	struct err err = {0};
	const char *why;
	struct ledger *l = open_it();
	struct ledger_place p;
	struct ledger_trace *a, *b;

	renew(l);
	p = find(l, &why);
	a = ledger_trace_new(l, &line, &p, &key, SEGMENT, &err);
	b = ledger_trace_new(l, &line, &p, &key, SEGMENT, &err);
	is_int(ledger_trace_record(a, SEGMENT, wal + SEGMENT, 50000, &err), 0, "one goes ahead");
	is_int(ledger_trace_record(b, SEGMENT, wal + SEGMENT, 20000, &err), 0, "the other follows");
	is_int(find(l, &why).position, SEGMENT + 50000, "the higher position counts");
	is_int(ledger_trace_record(b, SEGMENT + 20000, wal + SEGMENT + 20000, 60000, &err), 0,
	       "and overtakes it with the same bytes");
	is_int(ledger_trace_record(a, SEGMENT + 50000, other + SEGMENT + 50000, 60000, &err), -1,
	       "different ones are noticed");
	is_err(&err, ERR_REFUSED, "differs from what was sent", "and refused");
	ledger_trace_free(a);
	renew(l);
	is_int(ledger_trace_record(b, SEGMENT + 80000, wal + SEGMENT + 80000, 100, &err), -1,
	       "a session of the old incarnation ends");
	is_err(&err, ERR_REFUSED, "new incarnation", "and is told why");
	ledger_trace_free(b);
	a = ledger_trace_new(l, &line, &p, &key, SEGMENT, &err);
	is_int(ledger_trace_record(a, SEGMENT + 8, wal, 8, &err), -1, "a stream that does not begin at a segment");
	is_err(&err, ERR_DAMAGED, "does not go on", "is refused");
	ledger_trace_free(a);
	p = find(l, &why);
	a = ledger_trace_new(l, &line, &p, &key, SEGMENT, &err);
	ledger_trace_record(a, SEGMENT, wal, 8, &err);
	is_int(ledger_trace_record(a, SEGMENT + 16, wal, 8, &err), -1, "a gap is refused");
	ledger_trace_free(a);
	ledger_close(l, &err);
}

/* One MAC whatever the pieces, and another one for any other byte: in whole blocks of 1024, at their edges, behind the
 * last one. */
static void
test_pieces(void)
{
	static const size_t steps[] = {1, 7, 1023, 1024, 1025, 100000, SEGMENT}, to = SEGMENT + 70000;
	static const size_t at[] = {0, 1023, 1024, 32 * 1024 - 1, 32 * 1024, 69631, 69632, 69999};
	struct err err = {0};
	const char *why;
	struct ledger *l = open_it();
	uint8_t mac[32] = {0};
	int wrong = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		struct ledger_place p;

		renew(l);
		p = find(l, &why);
		wrong += send_wal(l, &p, wal, SEGMENT, to, steps[i], &err) != 0;
		p = find(l, &why);
		if (i == 0)
			memcpy(mac, p.mac, sizeof(mac));
		wrong += p.position != to || memcmp(p.mac, mac, sizeof(mac)) != 0;
	}
	is_int(wrong, 0, "the same MAC in all pieces");
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		for (int bit = 0; bit < 8; bit++) {
			struct ledger_place p = find(l, &why);

			wal[SEGMENT + at[i]] ^= (uint8_t)(1 << bit);
			wrong += check(l, &p, wal, 8192) != 0;
			wal[SEGMENT + at[i]] ^= (uint8_t)(1 << bit);
			wrong += check(l, &p, wal, 8192) != 1;
		}
	is_int(wrong, 0, "another one when one bit is another");
	ledger_close(l, &err);
}

/* What lies on the disk: another boot, damage. */
static void
edit(size_t off, uint8_t xor, bool crc)
{
	int fd = open(path, O_RDWR);

	for (size_t slot = 4096 + 56; slot <= 4096 + 200; slot += 144) {
		uint8_t bytes[144];
		uint32_t sum;

		if (pread(fd, bytes, sizeof(bytes), (off_t)slot) != (ssize_t)sizeof(bytes))
			printf("# the ledger is too short\n");
		bytes[off] ^= xor;
		sum = crc32c(0, bytes, 140);
		if (crc)
			memcpy(bytes + 140, &sum, 4);
		if (pwrite(fd, bytes, sizeof(bytes), (off_t)slot) < 0)
			printf("# could not write\n");
	}
	close(fd);
}

static void
magic_write(const char *magic)
{
	int fd = open(path, O_RDWR);

	if (pwrite(fd, magic, 8, 0) != 8)
		printf("# could not write\n");
	close(fd);
}

static void
test_disk(void)
{
	struct err err = {0};
	const char *why;
	struct ledger *l = open_it();
	struct ledger_place p = find(l, &why), q;

	send_wal(l, &p, wal, SEGMENT, 2 * SEGMENT, 8192, &err);
	ledger_close(l, &err);
	edit(96, 1, true);
	l = open_it();
	q = find(l, &why);
	ok(why == NULL && q.incarnation == p.incarnation, "closed, then another boot: the same incarnation");
	send_wal(l, &q, wal, 2 * SEGMENT, 3 * SEGMENT, 8192, &err);
	is_int(find(l, &why).position, 3 * SEGMENT, "it goes on");
	edit(96, 1, true); /* while it is open: as a crash would leave it */
	q = find(l, &why);
	is_str(why, "the operating system went down while it was streamed",
	       "another boot without a close: a new incarnation");
	ok(q.incarnation != p.incarnation && q.position == 0, "which has sent nothing");
	p = q;
	edit(10, 4, false);
	q = find(l, &why);
	is_str(why, "its line in the ledger is damaged", "both slots damaged: a new incarnation");
	ok(q.incarnation != p.incarnation, "a different one");
	ledger_close(l, &err);
	magic_write("WCLEDGR4");
	ok(ledger_open(path, &err) == NULL, "a later format is not opened");
	is_err(&err, ERR_REFUSED, "has format 4; this version of walcrypt knows formats up to 3", "and named");
	magic_write("WCLEDGR2");
	ok(ledger_open(path, &err) == NULL, "nor is an earlier one");
	is_err(&err, ERR_DAMAGED, "is not a ledger", "which no release has written");
	magic_write("WCLEDGR3");
	is_int(truncate(path, 100), 0, "cut short");
	ok(ledger_open(path, &err) == NULL, "it is not opened");
	is_err(&err, ERR_DAMAGED, "is not a ledger", "and named");
}

int
main(void)
{
	char dir[] = "/tmp/walcrypt-ledger.XXXXXX";

	sample_secmem(64 * 1024);
	if (mkdtemp(dir) == NULL)
		return 1;
	snprintf(path, sizeof(path), "%s/ledger", dir);
	for (size_t i = 0; i < LEN; i++) {
		wal[i] = (uint8_t)(i * 7 + i / 8192);
		other[i] = (uint8_t)(i * 11 + i / 4096);
	}
	test_life();
	test_kill();
	test_alike();
	test_two();
	test_pieces();
	test_disk();
	unlink(path);
	rmdir(dir);
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
