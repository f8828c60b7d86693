/*
 * secmem: memory for keys: one arena of guarded pages, locked in RAM, left out of core dumps, wiped on free.
 *
 * OpenSSL's key schedules live in it too: secmem_hook_openssl() gives libcrypto an allocator that takes from the arena
 * while the calling thread is inside secmem_enter()/secmem_leave(), and from malloc otherwise; free and realloc tell by
 * address; what it frees it wipes, wherever it lay. mlock is not inherited by fork: a child calls secmem_relock()
 * before it uses a key. All functions are thread-safe.
 */
#ifndef WALCRYPT_SECMEM_H
#define WALCRYPT_SECMEM_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/* Map the arena (len bytes, rounded up to pages, a guard page on each side). Once per process; again is a no-op.
 * mlock refused: ERR_REFUSED naming RLIMIT_MEMLOCK's present value and the one needed. */
int secmem_init(size_t len, struct err *err);
/* Install the allocator into libcrypto; only works before libcrypto's first allocation (ERR_FAILED after that). */
int secmem_hook_openssl(struct err *err);
/*
 * The same for a private libcrypto inside a foreign program: it also reads no openssl.cnf (which may name providers
 * that are not there) and registers nothing to be run at exit (a server's own exit still reads and writes pages).
 */
int secmem_hook_private_openssl(struct err *err);
/* In a child after fork: lock the arena again. */
int secmem_relock(struct err *err);
/* Zeroed, 16-byte aligned; NULL with err set when the arena is full or missing. */
void *secmem_alloc(size_t len, struct err *err);
/* Wipes and frees; NULL is allowed. */
void secmem_free(void *p);
/* Bracket the making of cipher contexts; nests. */
void secmem_enter(void);
void secmem_leave(void);
/* Bytes handed out now: 0 at the end of a program that freed all its keys (tests look). */
size_t secmem_used(void);
/* Wipe len bytes in a way that the compiler keeps. */
void secmem_wipe(void *p, size_t len);
/* Are len bytes the same? In a time that does not tell where they differ: for keys and authentication codes. */
bool secmem_equal(const void *a, const void *b, size_t len);

#endif
