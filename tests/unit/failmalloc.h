/*
 * failmalloc: make each allocation of a piece of code fail in turn, to walk its error paths.
 *
 * Unit tests are linked with --wrap for malloc, calloc, realloc, strdup, strndup and secmem_alloc, so every call from
 * our own objects is counted here. What libraries allocate for themselves is not; nor, unless a test calls
 * secmem_hook_openssl, libcrypto.
 */
#ifndef TESTS_UNIT_FAILMALLOC_H
#define TESTS_UNIT_FAILMALLOC_H

/*
 * Call run(arg) with the first allocation failing, then the second, ... until a run in which none was left to fail.
 * run returns 0 when it worked, -1 when it failed cleanly, anything else when something is wrong (what it made is still
 * there, err is empty ...). Returns how many allocations were made to fail, or -1 when a run said "wrong", or the last
 * one, undisturbed, failed.
 */
int failmalloc_each(int (*run)(void *arg), void *arg);

/* By hand: the nth allocation from now on fails, once; 0: none. */
void failmalloc_at(long n);

#endif
