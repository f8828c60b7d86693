#include "replication/memberkind.h"

#include <string.h>

#include "replication/autoconf.h"
#include "replication/incrfile.h"
#include "replication/walfile.h"

const char *
memberkind_name(const struct tar_member *m)
{
	return strncmp(m->name, "./", 2) == 0 ? m->name + 2 : m->name;
}

bool
memberkind_in_manifest(const struct tar_member *m, bool main)
{
	return !main || strncmp(memberkind_name(m), "pg_wal/", 7) != 0;
}

static int
too_large(const struct tar_member *m, const char *what, const char *limit, struct err *err)
{
	err_set(err, ERR_REFUSED, "%s \"%.150s\" in the base backup is larger than %s", what, memberkind_name(m), limit);
	return err_sqlstate(err, "0A000");
}

static int
wal_kind(const struct tar_member *m, bool main, enum memberkind *kind, struct err *err)
{
	bool valid = walfile_size_valid(m->size);

	if (memberkind_in_manifest(m, main)) {
		*kind = valid ? MEMBER_WAL_MAYBE : MEMBER_OTHER;
		return 0;
	}
	*kind = MEMBER_WAL;
	if (valid)
		return 0;
	err_set(err, ERR_DAMAGED, "WAL file \"%.150s\" in the base backup has an invalid size: %llu bytes", m->name,
	        (unsigned long long)m->size);
	return err_sqlstate(err, "XX001");
}

static int
relation_kind(const struct tar_member *m, enum memberkind *kind, struct err *err)
{
	*kind = MEMBER_RELATION;
	/* more blocks would take the tweaks of the next segment's */
	if (m->size <= (uint64_t)PAGE_BLOCKS_PER_SEGMENT * PAGE_LEN)
		return 0;
	too_large(m, "relation file", "1 GiB", err);
	return err_hint(err, "Only servers with relation segments of 1 GiB (SHOW segment_size) are supported.");
}

int
memberkind_of(const struct tar_member *m, bool main, enum memberkind *kind, struct pgfile *file, struct err *err)
{
	const char *name = memberkind_name(m);
	bool plain = m->type == TAR_FILE;

	*kind = MEMBER_OTHER;
	pgfile_parse(name, !main, file);
	if (plain && main && strcmp(name, "pg_cryptokeys/live/keyset.json") == 0) {
		*kind = MEMBER_KEYSET;
		return m->size <= MEMBERKIND_KEYSET_MAX ? 0 : too_large(m, "key file", "64 KiB", err);
	}
	if (file->kind == PGFILE_KEYDIR || file->kind == PGFILE_TEMP)
		*kind = MEMBER_DROP;
	if (*kind == MEMBER_DROP || !plain)
		return 0;
	if (file->kind == PGFILE_OTHER && incrfile_parse(name, !main, file)) {
		*kind = MEMBER_INCREMENTAL;
		return m->size <= INCRFILE_MAX_LEN ? 0 : too_large(m, "incremental file", "all blocks of 1 GiB", err);
	}
	if (main && strcmp(name, "postgresql.auto.conf") == 0) {
		*kind = MEMBER_CONF;
		return m->size <= AUTOCONF_MAX ? 0 : too_large(m, "file", "1 MiB", err);
	}
	if (file->kind == PGFILE_RELATION)
		return relation_kind(m, kind, err);
	if (file->kind == PGFILE_WAL)
		return wal_kind(m, main, kind, err);
	if (file->kind == PGFILE_WAL_TEMP || file->kind == PGFILE_WAL_RECOVERY)
		*kind = MEMBER_DROP;
	return 0;
}
