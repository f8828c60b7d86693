/*
 * rewind: pg_rewind works on two data directories, whose keys may differ. Its target is the directory that
 * WALCRYPT_DATADIR names; a source that lies on this machine (--source-pgdata) has a keyset of its own, opened with
 * WALCRYPT_SOURCE_KEK, else with WALCRYPT_KEK. A source server shows clear pages by itself.
 *
 * Which directory a file belongs to is told by the name that pg_rewind gives it: the option's text and what is below
 * it (pg_rewind.c's file_ops.c and local_source.c put the two together and change directory never).
 */
#ifndef STORAGE_REWIND_H
#define STORAGE_REWIND_H

#include <stdbool.h>

struct rewind {
	const char *target, *source; /* as on the command line; source is NULL for a server */
	bool source_encrypted;       /* the source has a pg_cryptokeys; a plain one is read as it is */
};
extern struct rewind rewind_dirs;

/* Read pg_rewind's command line. */
void rewind_arguments(int argc, char **argv);
/* Does path lie in the local source? False for any path of another program. A path in neither directory ends the
 * program: its keys cannot be told. */
bool rewind_in_source(const char *path);

#endif
