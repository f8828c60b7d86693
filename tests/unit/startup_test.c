/* First packets: each kind, and each malformation. */
#include "replication/startup.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"

#define V30 "\0\3\0\0"
#define BYTES(s) s, sizeof(s) - 1

/* In an allocation of exactly its size: a sanitizer sees one byte too far. */
static int
parse(const char *data, size_t len, struct startup *s, struct err *err)
{
	uint8_t *exact = malloc(len > 0 ? len : 1);
	int rc;

	if (exact == NULL)
		return err_nomem(err);
	memcpy(exact, data, len);
	memset(err, 0, sizeof(*err));
	rc = startup_parse(exact, len, s, err);
	free(exact);
	return rc;
}

static void
sessions(void)
{
	struct startup s;
	struct err err;

	if (ok(parse(BYTES(V30 "user\0blue\0replication\0true\0application_name\0walreceiver\0_pq_.x\0y\0\0"), &s, &err) ==
	           0,
	       "a standby's")) {
		is_int(s.kind, STARTUP_SESSION, "a session");
		is_int(s.minor, 0, "of protocol 3.0");
		is_str(s.user, "blue", "user");
		is_str(s.application_name, "walreceiver", "application_name");
		is_int(s.replication, STARTUP_REPLICATION_PHYSICAL, "replication");
		ok(s.database == NULL && s.options == NULL, "nothing that was not said");
		is_int(s.nparams, 4, "all parameters");
		is_int(s.nunknown, 1, "one protocol option");
		is_str(s.unknown[0], "_pq_.x", "by name");
		startup_free(&s);
	}
	if (ok(parse(BYTES("\0\3\0\2user\0u\0database\0d\0replication\0database\0options\0-c a=b\0\0"), &s, &err) == 0,
	       "with a database")) {
		is_int(s.minor, 2, "3.2");
		is_int(s.replication, STARTUP_REPLICATION_DATABASE, "replication=database");
		is_str(s.options, "-c a=b", "options");
		is_str(s.application_name, "", "no application_name");
		startup_free(&s);
	}
	static const struct {
		const char *value;
		int want;
	} bools[] = {{"1", 1}, {"on", 1},  {"yes", 1}, {"TRUE", 1},   {"t", 1},        {"y", 1},
	             {"0", 0}, {"off", 0}, {"of", 0},  {"no", 0},     {"f", 0},        {"o", -1},
	             {"", -1}, {"2", -1},  {"10", -1}, {"truer", -1}, {"Database", -1}};

	for (size_t i = 0; i < sizeof(bools) / sizeof(bools[0]); i++) {
		char text[100] = V30 "user\0u\0replication\0";
		size_t len = 23, value = strlen(bools[i].value) + 1;
		int got;

		memcpy(text + len, bools[i].value, value);
		text[len + value] = '\0';
		got = parse(text, len + value + 1, &s, &err) == 0 ? (int)s.replication : -1;
		is_int(got, bools[i].want, "replication=%s", bools[i].value);
		if (got >= 0)
			startup_free(&s);
	}
}

static void
requests(void)
{
	char cancel[8 + 257] = "\x04\xd2\x16\x2e\0\0\1\2";
	struct startup s;
	struct err err;

	ok(parse(BYTES("\x04\xd2\x16\x2f"), &s, &err) == 0 && s.kind == STARTUP_SSL, "SSLRequest");
	ok(parse(BYTES("\x04\xd2\x16\x30"), &s, &err) == 0 && s.kind == STARTUP_GSS, "GSSENCRequest");
	memset(cancel + 8, 'k', 257);
	ok(parse(cancel, 12, &s, &err) == 0 && s.kind == STARTUP_CANCEL && s.cancel_pid == 258 && s.cancel_key_len == 4,
	   "CancelRequest of 3.0");
	ok(parse(cancel, 8 + 256, &s, &err) == 0 && s.cancel_key_len == 256 && s.cancel_key[255] == 'k',
	   "CancelRequest with 256 bytes");
	is_int(parse(cancel, 8 + 257, &s, &err), -1, "a longer key is refused");
	is_int(parse(cancel, 8, &s, &err), -1, "and none");
	ok(startup_is_tls(0x16) && !startup_is_tls(0), "direct TLS is known by its first byte");
}

static void
refusals(void)
{
	static const struct {
		const char *data;
		size_t len;
		const char *sqlstate, *part;
	} rows[] = {
	    {BYTES(""), "08P01", "too short"},
	    {BYTES("\0\3\0"), "08P01", "too short"},
	    {BYTES("\0\2\0\0user\0u\0\0"), "0A000", "protocol 2.0"},
	    {BYTES("\0\4\0\0user\0u\0\0"), "0A000", "protocol 4.0"},
	    {BYTES("\x04\xd2\x16\x2fx"), "08P01", "wrong length"},
	    {BYTES(V30), "08P01", "terminator"},
	    {BYTES(V30 "\0"), "28000", "user name"},
	    {BYTES(V30 "user\0\0\0"), "28000", "user name"},
	    {BYTES(V30 "user\0u\0"), "08P01", "terminator"},
	    {BYTES(V30 "user\0u"), "08P01", "terminator"},
	    {BYTES(V30 "user"), "08P01", "without a value"},
	    {BYTES(V30 "user\0"), "08P01", "without a value"},
	    {BYTES(V30 "user\0u\0\0x"), "08P01", "terminator"},
	    {BYTES(V30 "user\0u\0replication\0maybe\0\0"), "22023", "replication"},
	};
	char many[4 + 65 * 4 + 1] = V30;
	struct startup s;
	struct err err;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		is_int(parse(rows[i].data, rows[i].len, &s, &err), -1, "refused: row %zu", i);
		ok(strstr(err.text, rows[i].part) != NULL, "... %s (%s)", rows[i].part, err.text);
		is_str(err.sqlstate, rows[i].sqlstate, "... sqlstate");
		ok(s.text == NULL, "... nothing is left");
	}
	for (int i = 0; i < 65; i++)
		memcpy(many + 4 + 4 * i, "a\0b", 4);
	is_int(parse(many, sizeof(many), &s, &err), -1, "refused: 65 parameters");
}

static int
starve(void *arg)
{
	static const char data[] = V30 "user\0blue\0";
	struct startup s;
	struct err err = {0};
	int rc;

	(void)arg;
	rc = startup_parse((const uint8_t *)data, sizeof(data), &s, &err);
	startup_free(&s);
	return rc != 0 && strcmp(err.sqlstate, "53200") != 0 ? 1 : rc;
}

int
main(void)
{
	sessions();
	requests();
	refusals();
	ok(failmalloc_each(starve, NULL) == 1, "each allocation may fail");
	return tap_done();
}
