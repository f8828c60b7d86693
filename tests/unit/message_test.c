/* Framing: the reader in every split, its caps, and the builders against bytes written by hand from the protocol's
 * documentation. */
#include "replication/message.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

struct reading {
	struct message_reader r;
	char seen[8192]; /* type and body of each message */
	size_t len;
	int count;
};

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct reading *reading = arg;
	struct message m;
	int rc;

	(void)pos;
	if (message_reader_feed(&reading->r, piece, len, err) != 0)
		return -1;
	while ((rc = message_reader_next(&reading->r, &m, err)) == 1) {
		if (m.data[m.len] != 0 || reading->len + m.len + 2 > sizeof(reading->seen))
			return err_set(err, ERR_FAILED, "no zero behind the message");
		reading->seen[reading->len++] = m.type == 0 ? '.' : m.type;
		memcpy(reading->seen + reading->len, m.data, m.len);
		reading->len += m.len;
		reading->count++;
		if (m.type == 0)
			message_reader_phase(&reading->r, MESSAGE_COMMAND);
	}
	return rc;
}

static void
splits(void)
{
	static const char in[] = "\0\0\0\x0bstartup"
	                         "Q\0\0\0\x09show\0"
	                         "d\0\0\0\4"
	                         "d\0\0\0\5x"
	                         "X\0\0\0\4";
	static const char want[] = ".startupQshow\0ddxX";
	bool same = true;

	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		struct reading reading = {0};
		struct err err = {0};

		message_reader_init(&reading.r);
		same &= split_feed((const uint8_t *)in, sizeof(in) - 1, *how, feed, &reading, &err) == 0 &&
		        reading.count == 5 && reading.len == sizeof(want) - 1 && memcmp(reading.seen, want, reading.len) == 0 &&
		        message_reader_pending(&reading.r) == 0;
		message_reader_free(&reading.r);
	}
	ok(same, "the same messages in every split");
}

static int
read_one(enum message_phase phase, const char *in, size_t len, struct err *err)
{
	struct message_reader r;
	struct message m;
	int rc;

	memset(err, 0, sizeof(*err));
	message_reader_init(&r);
	message_reader_phase(&r, phase);
	rc = message_reader_feed(&r, (const uint8_t *)in, len, err);
	if (rc == 0)
		rc = message_reader_next(&r, &m, err);
	message_reader_free(&r);
	return rc;
}

static void
refusals(void)
{
	static const struct {
		enum message_phase phase;
		const char *in;
		size_t len;
		const char *part;
	} rows[] = {
	    {MESSAGE_STARTUP, "\0\0\0\3", 4, "length of startup packet: 3"},
	    {MESSAGE_STARTUP, "\0\0\x27\x15", 4, "length of startup packet: 10005"},
	    {MESSAGE_STARTUP, "\xff\xff\xff\xff", 4, "length of startup packet"},
	    {MESSAGE_STARTUP, "GET ", 4, "length of startup packet"},
	    {MESSAGE_COMMAND, "Q\0\0\0\3", 5, "length of message type \"Q\": 3"},
	    {MESSAGE_COMMAND, "Q\0\1\0\5", 5, "length of message type \"Q\": 65541"},
	    {MESSAGE_COMMAND, "\x80", 1, "type 128"},
	    {MESSAGE_COMMAND, "\0", 1, "type 0"},
	    {MESSAGE_COPY, "d\0\0\x20\5", 5, "length of message type \"d\""},
	    {MESSAGE_COPY, "Q", 1, "type 81"},
	    {MESSAGE_AUTH, "Q", 1, "type 81"},
	};
	struct err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		is_int(read_one(rows[i].phase, rows[i].in, rows[i].len, &err), -1, "refused: row %zu", i);
		is_err(&err, ERR_FAILED, rows[i].part, "... %s", rows[i].part);
		is_str(err.sqlstate, "08P01", "... as a protocol violation");
	}
	is_int(read_one(MESSAGE_STARTUP, "\0\0\x27\x14", 4, &err), 0, "a startup packet of 10000 bytes is waited for");
	is_int(read_one(MESSAGE_COMMAND, "Q\0\1\0\4", 5, &err), 0, "and a command of 64 KiB");
}

static void
largest(void)
{
	struct message_reader r;
	struct message m;
	struct err err = {0};
	uint8_t *in = calloc(1, 5 + MESSAGE_COMMAND_MAX + 3);

	if (in == NULL)
		abort();
	memcpy(in, "Q\0\1\0\4", 5);
	memset(in + 5, 'a', MESSAGE_COMMAND_MAX);
	memcpy(in + 5 + MESSAGE_COMMAND_MAX, "X\0\0", 3);
	message_reader_init(&r);
	message_reader_phase(&r, MESSAGE_COMMAND);
	is_int(message_reader_feed(&r, in, 5 + MESSAGE_COMMAND_MAX + 3, &err), 0,
	       "the largest message fits, with the next one's beginning");
	ok(message_reader_next(&r, &m, &err) == 1 && m.len == MESSAGE_COMMAND_MAX && m.data[m.len] == 0, "it is whole");
	is_int(message_reader_pending(&r), 3, "what comes behind is still there");
	is_int(message_reader_next(&r, &m, &err), 0, "and its first byte is what it was");
	is_int(message_reader_feed(&r, (const uint8_t *)"\0\3", 2, &err), 0, "more comes");
	is_int(message_reader_next(&r, &m, &err), -1, "the next one's length is wrong");
	message_reader_free(&r);
	message_reader_init(&r);
	for (int i = 0; i < 100 && err.sqlstate[0] != '\0'; i++)
		if (message_reader_feed(&r, in, MESSAGE_COMMAND_MAX, &err) != 0)
			break;
	ok(r.in.cap <= 5 + MESSAGE_COMMAND_MAX + 4096, "a peer cannot make the reader hold more than that");
	message_reader_free(&r);
	free(in);
}

static struct buffer out;
static struct err build_err;

static void
built(const char *want, size_t len, int rc, const char *what)
{
	is_int(rc, 0, "%s: built", what);
	if (is_int(buffer_len(&out), len, "%s: length", what))
		is_mem(buffer_data(&out), want, len, "%s: bytes", what);
	buffer_consume(&out, buffer_len(&out));
}
#define BUILT(want, call, what) built(want, sizeof(want) - 1, call, what)

static void
builders(void)
{
	static const char *const names[] = {"_pq_.a", "_pq_.b"};
	struct message_field fields[] = {{"a", 25, -1}, {"bc", 20, 8}};
	struct message_value values[] = {{"xyz", 3}, {NULL, -1}, {"", 0}};
	struct err e = {.class = ERR_REFUSED, .sqlstate = "0A000", .text = "no", .detail = "Why.", .hint = "So."};
	struct err bare = {.class = ERR_FAILED, .text = "t"};

	buffer_init(&out, 1 << 16);
	BUILT("R\0\0\0\10\0\0\0\0", message_auth_ok(&out, &build_err), "AuthenticationOk");
	BUILT("S\0\0\0\10n\0v\0", message_parameter_status(&out, "n", "v", &build_err), "ParameterStatus");
	BUILT("K\0\0\0\14\0\0\1\2abcd", message_backend_key(&out, 258, (const uint8_t *)"abcd", 4, &build_err),
	      "BackendKeyData");
	BUILT("Z\0\0\0\5I", message_ready(&out, 'I', &build_err), "ReadyForQuery");
	BUILT("v\0\0\0\x1a\0\3\0\2\0\0\0\2_pq_.a\0_pq_.b\0", message_negotiate(&out, 0x30002, names, 2, &build_err),
	      "NegotiateProtocolVersion");
	BUILT("T\0\0\0\x2f\0\2a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
	      "bc\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0",
	      message_row_description(&out, fields, 2, &build_err), "RowDescription");
	BUILT("D\0\0\0\x15\0\3\0\0\0\3xyz\xff\xff\xff\xff\0\0\0\0", message_data_row(&out, values, 3, &build_err),
	      "DataRow");
	BUILT("C\0\0\0\13SELECT\0", message_command_complete(&out, "SELECT", &build_err), "CommandComplete");
	BUILT("I\0\0\0\4", message_empty_query(&out, &build_err), "EmptyQueryResponse");
	BUILT("E\0\0\0\x29SERROR\0VERROR\0C0A000\0Mno\0DWhy.\0HSo.\0\0", message_error(&out, "ERROR", &e, &build_err),
	      "ErrorResponse");
	BUILT("E\0\0\0\x1dSFATAL\0VFATAL\0CXX000\0Mt\0\0", message_error(&out, "FATAL", &bare, &build_err),
	      "ErrorResponse, bare");
	BUILT("N\0\0\0\x21SWARNING\0VWARNING\0C01000\0Mt\0\0", message_notice(&out, "WARNING", &bare, &build_err),
	      "NoticeResponse");
	BUILT("W\0\0\0\7\0\0\0", message_copy_both(&out, &build_err), "CopyBothResponse");
	BUILT("H\0\0\0\7\0\0\0", message_copy_out(&out, &build_err), "CopyOutResponse");
	BUILT("G\0\0\0\7\0\0\0", message_copy_in(&out, &build_err), "CopyInResponse");
	BUILT("d\0\0\0\7abc", message_copy_data(&out, "abc", 3, &build_err), "CopyData");
	BUILT("c\0\0\0\4", message_copy_done(&out, &build_err), "CopyDone");
	buffer_free(&out);

	buffer_init(&out, 20);
	is_int(message_copy_data(&out, "abc", 3, &build_err), 0, "a message fits");
	is_int(message_copy_data(&out, "0123456789012", 13, &build_err), -1, "the next does not");
	is_int(buffer_len(&out), 8, "and nothing of it is left");
	is_int(message_copy_data(&out, "abc", 3, &build_err), 0, "a smaller one does");
	buffer_free(&out);
}

static int
starve(void *arg)
{
	struct message_reader r;
	struct buffer b;
	struct err err = {0};
	uint8_t in[9000] = {'Q', 0, 0, 0x20, 0};
	struct message m;
	int rc;

	(void)arg;
	message_reader_init(&r);
	message_reader_phase(&r, MESSAGE_COMMAND);
	buffer_init(&b, 1 << 20);
	if ((rc = message_reader_feed(&r, in, sizeof(in), &err)) == 0)
		rc = message_reader_next(&r, &m, &err) == 1 ? 0 : 1;
	for (int i = 0; rc == 0 && i < 1000; i++)
		rc = message_copy_data(&b, "0123456789", 10, &err);
	message_reader_free(&r);
	buffer_free(&b);
	return rc == -1 && strcmp(err.sqlstate, "53200") != 0 ? 1 : rc;
}

int
main(void)
{
	splits();
	refusals();
	largest();
	builders();
	ok(failmalloc_each(starve, NULL) > 2, "each allocation may fail");
	return tap_done();
}
