/* upstream_ask: what a server must be, to be an upstream. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/address.h"
#include "proxy/upstream_ask.h"
#include "walcrypt/pgfile.h"

static int
refuse(struct upstream_answer *a, struct err *err, const char *what, const char *value, const char *want)
{
	err_set(err, ERR_REFUSED, "upstream \"%s\" is not supported: its %s is %s", a->name, what, value);
	err_sqlstate(err, "0A000");
	return err_detail(err, "walcrypt supports %s.", want);
}

/* The questions, in order, and what their answers must be. */

static int
take_system(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	char *end;

	a->facts->system_identifier = strtoull(value, &end, 10);
	if (*value == '\0' || *end != '\0' || PQnfields(res) < 3)
		return err_set(err, ERR_FAILED, "upstream \"%s\" answered IDENTIFY_SYSTEM with \"%s\"", a->name, value);
	a->facts->tli = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10);
	if (a->facts->tli == 0 || lsn_parse(PQgetvalue(res, 0, 2), &a->facts->flush_lsn) != 0)
		return err_set(err, ERR_FAILED, "upstream \"%s\" answered IDENTIFY_SYSTEM with timeline %s, position \"%s\"",
		               a->name, PQgetvalue(res, 0, 1), PQgetvalue(res, 0, 2));
	return 0;
}

static int
take_standby(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	(void)err;
	a->facts->standby = strcmp(value, "off") != 0;
	return 0;
}

static int
take_block_size(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	return strcmp(value, "8192") == 0 ? 0 : refuse(a, err, "block size", value, "a block size of 8192");
}

static int
take_wal_block_size(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	return strcmp(value, "8192") == 0 ? 0 : refuse(a, err, "WAL block size", value, "a WAL block size of 8192");
}

static int
take_file_size(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	return strcmp(value, "1GB") == 0 ? 0 : refuse(a, err, "segment size", value, "relation segments of 1GB");
}

static int
take_wal_segment_size(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	uint64_t size = upstream_size_parse(value);

	(void)res;
	if (size < 1u << 20 || size > 1u << 30 || (size & (size - 1)) != 0)
		return refuse(a, err, "wal_segment_size", value, "powers of two from 1MB to 1GB");
	a->facts->segment_size = (uint32_t)size;
	return 0;
}

static int
take_checksums(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	(void)err;
	a->facts->checksums = strcmp(value, "on") == 0;
	return 0;
}

static int
take_sender_timeout(struct upstream_answer *a, const PGresult *res, const char *value, struct err *err)
{
	(void)res;
	a->facts->wal_sender_timeout_ms = upstream_time_parse(value);
	return a->facts->wal_sender_timeout_ms >= 0
	           ? 0
	           : err_set(err, ERR_FAILED, "upstream \"%s\" answered SHOW wal_sender_timeout with \"%s\"", a->name,
	                     value);
}

const struct upstream_question upstream_questions[] = {
    {"SHOW block_size", 0, take_block_size},
    {"SHOW wal_block_size", 0, take_wal_block_size},
    {"SHOW segment_size", 0, take_file_size},
    {"SHOW wal_segment_size", 0, take_wal_segment_size},
    {"SHOW data_checksums", 0, take_checksums},
    {"SHOW in_hot_standby", 0, take_standby},
    {"SHOW wal_sender_timeout", 0, take_sender_timeout},
    {"IDENTIFY_SYSTEM", 0, take_system},
};
const size_t upstream_nquestions = sizeof(upstream_questions) / sizeof(upstream_questions[0]);

int
upstream_check_way(struct upstream_answer *a, struct err *err)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);
	char text[ADDRESS_TEXT_LEN];

	if (a->allow_plaintext || PQsslInUse(a->conn))
		return 0;
	if (getpeername(PQsocket(a->conn), (struct sockaddr *)&addr, &len) != 0)
		return err_os(err, errno, "could not see where upstream \"%s\" is", a->name);
	if (addr.ss_family == AF_UNIX || address_is_loopback((struct sockaddr *)&addr))
		return 0;
	address_text((struct sockaddr *)&addr, text, sizeof(text));
	err_set(err, ERR_REFUSED, "the connection to upstream \"%s\" has no TLS", a->name);
	err_sqlstate(err, "08001");
	err_detail(err, "What it sends would cross the network from %s in clear.", text);
	return err_hint(err, "Set sslmode=verify-full in its conninfo, or allow_plaintext = on in its section.");
}

int
upstream_check_version(struct upstream_answer *a, struct err *err)
{
	int major = PQserverVersion(a->conn) / 10000;
	const char *text = PQparameterStatus(a->conn, "server_version");
	char want[64];

	a->facts->version = PQserverVersion(a->conn);
	if (major >= UPSTREAM_OLDEST && major <= UPSTREAM_NEWEST)
		return 0;
	snprintf(want, sizeof(want), "PostgreSQL %d to %d", UPSTREAM_OLDEST, UPSTREAM_NEWEST);
	return refuse(a, err, "version", text == NULL ? "unknown" : text, want);
}

int
upstream_time_parse(const char *text)
{
	static const struct {
		const char *unit;
		long ms;
	} units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
	char *end;
	long n = strtol(text, &end, 10);

	for (size_t i = 0; end != text && n >= 0 && i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0)
			return n <= INT_MAX / units[i].ms ? (int)(n * units[i].ms) : INT_MAX;
	return -1;
}

uint64_t
upstream_size_parse(const char *text)
{
	static const struct {
		const char *unit;
		unsigned shift;
	} units[] = {{"", 0}, {"B", 0}, {"kB", 10}, {"MB", 20}, {"GB", 30}, {"TB", 40}};
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	for (size_t i = 0; end != text && i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0)
			return n <= UINT64_MAX >> units[i].shift ? n << units[i].shift : 0;
	return 0;
}
