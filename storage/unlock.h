/*
 * unlock: the keys of this process, fetched once by running `walcrypt-ctl unlock` and reading its pipe; children of a
 * server inherit them by fork.
 *
 * WALCRYPT_DATADIR names the data directory of tools (a server's is its working directory), WALCRYPT_KEYDIR a key
 * directory that lies elsewhere (initdb). What fails ends the program with status 1: nothing was written then.
 */
#ifndef STORAGE_UNLOCK_H
#define STORAGE_UNLOCK_H

#include <stdbool.h>

#include "storage/fdtable.h"
#include "walcrypt/keyset.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

struct keys {
	struct keyset *set; /* NULL before unlocking */
	struct page_cipher *page;
	struct wal_cipher *wal;
};
extern struct keys keys, source_keys; /* the latter: of pg_rewind's source */

/* The server is about to make its lock file: fetch keys, check the server, set up what its children share. Again is a
 * no-op. Takes LD_PRELOAD and WALCRYPT_KEK out of the environment. */
void unlock_server(void);
/* A tool's first read or write. */
void unlock_tool(void);

static inline void
unlock_needed(void)
{
	if (__builtin_expect(keys.set == NULL, 0))
		unlock_tool();
}

/* The keys under which f is read. */
static inline const struct keys *
unlock_keys(const struct file *f)
{
	return __builtin_expect(f->source, 0) ? &source_keys : &keys;
}

#endif
