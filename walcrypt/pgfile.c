#include "walcrypt/pgfile.h"

#include <stdio.h>
#include <string.h>

#define MAX_PARTS 8 /* the longest path that means anything has five */
#define WAL_NAME_LEN 24

/* A path cut at its slashes; n counts all parts, part holds the first MAX_PARTS of them and always the last. */
struct part {
	const char *s;
	size_t len;
};
struct parts {
	struct part part[MAX_PARTS], last;
	size_t n;
};

static bool
is(struct part p, const char *text)
{
	return p.len == strlen(text) && memcmp(p.s, text, p.len) == 0;
}

static bool
begins(struct part p, const char *text)
{
	return p.len >= strlen(text) && memcmp(p.s, text, strlen(text)) == 0;
}

/* The digits at *s as a number of 32 bits; false when there are none or too many. */
static bool
number(struct part *p, uint32_t *value)
{
	uint64_t v = 0;
	size_t i;

	for (i = 0; i < p->len && p->s[i] >= '0' && p->s[i] <= '9'; i++) {
		v = v * 10 + (uint64_t)(p->s[i] - '0');
		if (v > UINT32_MAX)
			return false;
	}
	if (i == 0)
		return false;
	p->s += i;
	p->len -= i;
	*value = (uint32_t)v;
	return true;
}

static bool
all_number(struct part p, uint32_t *value)
{
	return number(&p, value) && p.len == 0;
}

static void
skip(struct part *p, size_t n)
{
	p->s += n;
	p->len -= n;
}

/* ^(t[0-9]+_)?[0-9]+(_(fsm|vm|init))?(\.[0-9]+)?$ */
static bool
relation_name(struct part p, struct page_at *at)
{
	static const struct {
		const char *suffix;
		uint8_t fork;
	} forks[] = {{"_fsm", PAGE_FORK_FSM}, {"_vm", PAGE_FORK_VM}, {"_init", PAGE_FORK_INIT}};
	uint32_t backend, segment = 0;

	if (begins(p, "t")) {
		skip(&p, 1);
		if (!number(&p, &backend) || !begins(p, "_"))
			return false;
		skip(&p, 1);
		at->temp = true;
	}
	if (!number(&p, &at->rel))
		return false;
	for (size_t i = 0; i < sizeof(forks) / sizeof(forks[0]); i++)
		if (begins(p, forks[i].suffix)) {
			skip(&p, strlen(forks[i].suffix));
			at->fork = forks[i].fork;
			break;
		}
	if (begins(p, ".")) {
		skip(&p, 1);
		if (!number(&p, &segment) || segment > UINT32_MAX / PAGE_BLOCKS_PER_SEGMENT)
			return false;
	}
	at->block = segment * PAGE_BLOCKS_PER_SEGMENT;
	return p.len == 0;
}

static bool
hex32(const char *s, uint32_t *value)
{
	*value = 0;
	for (int i = 0; i < 8; i++) {
		const char *digits = "0123456789ABCDEF", *at = s[i] != '\0' ? strchr(digits, s[i]) : NULL;

		if (at == NULL)
			return false;
		*value = *value << 4 | (uint32_t)(at - digits);
	}
	return true;
}

static bool
wal_name(struct part p, struct pgfile *f)
{
	uint32_t pid;

	if (is(p, "RECOVERYXLOG")) {
		f->kind = PGFILE_WAL_RECOVERY;
		return true;
	}
	if (begins(p, "xlogtemp.")) {
		skip(&p, strlen("xlogtemp."));
		if (!all_number(p, &pid))
			return false;
		f->kind = PGFILE_WAL_TEMP;
		return true;
	}
	if (p.len < WAL_NAME_LEN || !hex32(p.s, &f->tli) || !hex32(p.s + 8, &f->log) || !hex32(p.s + 16, &f->seg))
		return false;
	skip(&p, WAL_NAME_LEN);
	if (p.len != 0 && !is(p, ".partial"))
		return false;
	f->kind = PGFILE_WAL;
	return true;
}

/* False when the path has a ".." in it: names behind that mean nothing. */
static bool
cut(const char *path, struct parts *parts)
{
	memset(parts, 0, sizeof(*parts));
	while (*path != '\0') {
		struct part p = {.s = path, .len = strcspn(path, "/")};

		path += p.len;
		path += strspn(path, "/");
		if (p.len == 0 || is(p, "."))
			continue;
		if (is(p, ".."))
			return false;
		if (parts->n < MAX_PARTS)
			parts->part[parts->n] = p;
		parts->last = p;
		parts->n++;
	}
	return parts->n > 0;
}

/* PG_<version>/<db>/NAME or PG_<version>/pgsql_tmp/..., from part `at` on. */
static bool
in_tablespace_dir(const struct parts *parts, size_t at, struct pgfile *f)
{
	const struct part *p = &parts->part[at];

	if (parts->n < at + 3 || !begins(p[0], "PG_"))
		return false;
	if (is(p[1], "pgsql_tmp")) {
		f->kind = PGFILE_TEMP;
		return true;
	}
	if (parts->n != at + 3 || !all_number(p[1], &f->at.db) || !relation_name(p[2], &f->at))
		return false;
	f->kind = PGFILE_RELATION;
	return true;
}

/* by_folder: WAL only in pg_wal/ or without any folder. */
static bool
parse(const char *path, bool in_tablespace, bool by_folder, struct pgfile *f)
{
	struct parts parts;
	const struct part *p = parts.part;
	uint32_t ts;

	if (!cut(path, &parts))
		return false;
	if (in_tablespace)
		return in_tablespace_dir(&parts, 0, f);
	if (is(p[0], "pg_cryptokeys")) {
		f->kind = PGFILE_KEYDIR;
		return true;
	}
	if (is(p[0], "global")) {
		if (parts.n != 2 || !relation_name(p[1], &f->at))
			return false;
		f->kind = PGFILE_RELATION;
		return true;
	}
	if (is(p[0], "base")) {
		if (parts.n >= 3 && is(p[1], "pgsql_tmp")) {
			f->kind = PGFILE_TEMP;
			return true;
		}
		if (parts.n != 3 || !all_number(p[1], &f->at.db) || !relation_name(p[2], &f->at))
			return false;
		f->kind = PGFILE_RELATION;
		return true;
	}
	if (is(p[0], "pg_tblspc"))
		return parts.n >= 5 && all_number(p[1], &ts) && in_tablespace_dir(&parts, 2, f);
	if (by_folder && parts.n != 1 && !(parts.n == 2 && is(p[0], "pg_wal")))
		return false;
	return wal_name(parts.last, f);
}

/* parse, leaving f zeroed (PGFILE_OTHER) when it says no */
static bool
parse_clean(const char *path, bool in_tablespace, bool by_folder, struct pgfile *f)
{
	memset(f, 0, sizeof(*f));
	if (parse(path, in_tablespace, by_folder, f))
		return true;
	memset(f, 0, sizeof(*f));
	return false;
}

void
pgfile_parse(const char *path, bool in_tablespace, struct pgfile *f)
{
	parse_clean(path, in_tablespace, false, f);
}

int
pgfile_parse_suffix(const char *path, struct pgfile *f)
{
	const char *s = path;

	s += strspn(s, "/");
	while (*s != '\0') {
		if (parse_clean(s, false, true, f) || parse_clean(s, true, true, f))
			return (int)(s - path);
		s += strcspn(s, "/");
		s += strspn(s, "/");
	}
	memset(f, 0, sizeof(*f));
	return -1;
}

void
pgfile_wal_name(char out[static 25], uint32_t tli, uint64_t segno, uint32_t segment_size)
{
	uint64_t per_log = UINT64_C(0x100000000) / segment_size;

	snprintf(out, 25, "%08X%08X%08X", tli, (uint32_t)(segno / per_log), (uint32_t)(segno % per_log));
}

uint64_t
pgfile_wal_segno(const struct pgfile *f, uint32_t segment_size)
{
	return f->log * (UINT64_C(0x100000000) / segment_size) + f->seg;
}

void
lsn_format(char out[static LSN_TEXT_LEN], uint64_t lsn)
{
	snprintf(out, LSN_TEXT_LEN, "%X/%X", (uint32_t)(lsn >> 32), (uint32_t)lsn);
}

/* One to eight hex digits; returns what follows, or NULL. */
static const char *
lsn_half(const char *s, uint64_t *value)
{
	size_t n = strspn(s, "0123456789abcdefABCDEF");

	if (n < 1 || n > 8)
		return NULL;
	*value = 0;
	for (size_t i = 0; i < n; i++)
		*value = *value << 4 | (uint64_t)(s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10);
	return s + n;
}

int
lsn_parse(const char *text, uint64_t *lsn)
{
	uint64_t hi, lo;
	const char *s = lsn_half(text, &hi);

	if (s == NULL || *s != '/' || (s = lsn_half(s + 1, &lo)) == NULL || *s != '\0')
		return -1;
	*lsn = hi << 32 | lo;
	return 0;
}
