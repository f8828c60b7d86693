/* memberkind: what a member of a base backup is, from its name, type and size alone, and so what becomes of it. */
#ifndef REPLICATION_MEMBERKIND_H
#define REPLICATION_MEMBERKIND_H

#include <stdbool.h>

#include "replication/tar.h"
#include "walcrypt/pgfile.h"

#define MEMBERKIND_KEYSET_MAX 65536 /* bytes of a keyset.json */

enum memberkind {
	MEMBER_OTHER,
	MEMBER_RELATION,
	MEMBER_INCREMENTAL, /* some blocks of a relation file; file describes that */
	MEMBER_WAL,
	MEMBER_WAL_MAYBE, /* called like a WAL segment, outside pg_wal: its first page says */
	MEMBER_CONF,      /* postgresql.auto.conf */
	MEMBER_KEYSET,    /* the upstream's keyset.json */
	MEMBER_DROP       /* must not go on */
};

/* main: in the main archive, not a tablespace's. file is filled. -1: a member that no backup we can take has. */
int memberkind_of(const struct tar_member *m, bool main, enum memberkind *kind, struct pgfile *file, struct err *err);
/* The name without the "./" in front that some have. */
const char *memberkind_name(const struct tar_member *m);
/* Does the manifest list files there? Below pg_wal/ it does not list what we change. */
bool memberkind_in_manifest(const struct tar_member *m, bool main);

#endif
