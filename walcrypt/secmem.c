#include "walcrypt/secmem.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>

#include "common/wiping.h"

/*
 * The arena is a row of chunks, each a header and its bytes, without gaps. First fit; neighbours are merged when freed.
 * There are some hundred chunks at most, so nothing cleverer is needed. Free bytes are always zero: freeing wipes, so
 * handing out need not.
 */
struct chunk {
	size_t size; /* header included, a multiple of ALIGN; the lowest bit says that it is in use */
	size_t prev; /* size of the chunk before, 0 for the first */
};

#define ALIGN 16
#define USED ((size_t)1)

_Static_assert(sizeof(struct chunk) == ALIGN, "a chunk's bytes must stay aligned");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *arena;
static size_t arena_len;
static size_t used;
static _Thread_local unsigned depth;
static _Thread_local bool thread_ready;

static void
lock_arena(void)
{
	pthread_mutex_lock(&lock);
}

static void
unlock_arena(void)
{
	pthread_mutex_unlock(&lock);
}

static size_t
chunk_size(const struct chunk *c)
{
	return c->size & ~USED;
}

static struct chunk *
chunk_next(struct chunk *c)
{
	uint8_t *next = (uint8_t *)c + chunk_size(c);

	return next < arena + arena_len ? (struct chunk *)(void *)next : NULL;
}

static bool
in_arena(const void *p)
{
	return arena != NULL && (const uint8_t *)p >= arena && (const uint8_t *)p < arena + arena_len;
}

static int
lock_in_ram(struct err *err)
{
	struct rlimit limit = {0};
	int save;

	if (mlock(arena, arena_len) == 0)
		return 0;
	save = errno;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	err_set(err, ERR_REFUSED, "could not lock %zu kB of memory for keys: %s", arena_len / 1024, strerror(save));
	err->os_errno = save;
	err_detail(err, "The limit of locked memory (RLIMIT_MEMLOCK) is %llu kB; keys must not reach swap space.",
	           (unsigned long long)(limit.rlim_cur / 1024));
	return err_hint(err,
	                "Raise it to %zu kB or more: \"ulimit -l\", LimitMEMLOCK= of the service, or --ulimit memlock= of "
	                "the container.",
	                arena_len / 1024);
}

int
secmem_init(size_t len, struct err *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *map = MAP_FAILED;
	static bool fork_handled;
	int rc = -1;

	lock_arena();
	if (arena != NULL) {
		rc = 0;
		goto done;
	}
	len = (len + page - 1) / page * page;
	if (len == 0)
		len = page;
	map = mmap(NULL, len + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		err_os(err, errno, "could not map memory for keys");
		goto done;
	}
	arena = map + page;
	arena_len = len;
	if (mprotect(arena, len, PROT_READ | PROT_WRITE) != 0 || madvise(arena, len, MADV_DONTDUMP) != 0) {
		err_os(err, errno, "could not protect memory for keys");
		goto done;
	}
	if (lock_in_ram(err) != 0)
		goto done;
	/* a fork while another thread holds the lock must not leave the child with a locked one */
	if (!fork_handled && pthread_atfork(lock_arena, unlock_arena, unlock_arena) != 0) {
		err_nomem(err);
		goto done;
	}
	fork_handled = true;
	((struct chunk *)(void *)arena)->size = len;
	rc = 0;
done:
	if (rc != 0 && map != MAP_FAILED) {
		munmap(map, len + 2 * page);
		arena = NULL;
		arena_len = 0;
	}
	unlock_arena();
	return rc;
}

int
secmem_relock(struct err *err)
{
	return arena != NULL ? lock_in_ram(err) : 0;
}

static void *
arena_alloc(size_t len)
{
	struct chunk *c = NULL;
	size_t want;

	if (len > arena_len)
		return NULL;
	want = (len + ALIGN - 1) / ALIGN * ALIGN + sizeof(struct chunk);
	if (len == 0)
		want += ALIGN;
	lock_arena();
	for (c = (struct chunk *)(void *)arena; c != NULL; c = chunk_next(c)) {
		size_t have = c->size;

		if ((have & USED) != 0 || have < want)
			continue;
		if (have - want > sizeof(struct chunk)) {
			struct chunk *rest = (struct chunk *)(void *)((uint8_t *)c + want), *after = chunk_next(c);

			rest->size = have - want;
			rest->prev = want;
			if (after != NULL)
				after->prev = rest->size;
			have = want;
		}
		c->size = have | USED;
		used += have - sizeof(struct chunk);
		break;
	}
	unlock_arena();
	return c != NULL ? c + 1 : NULL;
}

static void
arena_free(void *p)
{
	struct chunk *c = (struct chunk *)p - 1, *next;

	lock_arena();
	if ((c->size & USED) == 0)
		abort(); /* freed twice: our own bug, and with keys about there is no going on */
	c->size &= ~USED;
	used -= c->size - sizeof(struct chunk);
	secmem_wipe(p, c->size - sizeof(struct chunk));
	next = chunk_next(c);
	if (next != NULL && (next->size & USED) == 0) {
		c->size += next->size;
		memset(next, 0, sizeof(*next));
	}
	if (c->prev != 0) {
		struct chunk *prev = (struct chunk *)(void *)((uint8_t *)c - c->prev);

		if ((prev->size & USED) == 0) {
			prev->size += c->size;
			memset(c, 0, sizeof(*c));
			c = prev;
		}
	}
	next = chunk_next(c);
	if (next != NULL)
		next->prev = c->size;
	unlock_arena();
}

void *
secmem_alloc(size_t len, struct err *err)
{
	void *p;

	if (arena == NULL) {
		err_set(err, ERR_FAILED, "memory for keys is not set up");
		return NULL;
	}
	p = arena_alloc(len);
	if (p == NULL) {
		err_set(err, ERR_FAILED, "out of memory for keys: %zu of %zu bytes are in use", secmem_used(), arena_len);
		err_sqlstate(err, "53200");
	}
	return p;
}

void
secmem_free(void *p)
{
	if (p != NULL)
		arena_free(p);
}

void
secmem_enter(void)
{
	/*
	 * A thread's first error makes libcrypto set up the thread's error queue, and the first of all 50 kB of error
	 * texts: not here, they would fill a small arena and stay.
	 */
	if (!thread_ready) {
		ERR_clear_error();
		thread_ready = true;
	}
	depth++;
}

void
secmem_leave(void)
{
	depth--;
}

size_t
secmem_used(void)
{
	size_t n;

	lock_arena();
	n = used;
	unlock_arena();
	return n;
}

void
secmem_wipe(void *p, size_t len)
{
	explicit_bzero(p, len);
}

bool
secmem_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

/* libcrypto's allocator. What lies in the arena stays there when it grows, whoever asks. */
static void *
hook_malloc(size_t len, const char *file, int line)
{
	(void)file;
	(void)line;
	return depth > 0 && arena != NULL ? arena_alloc(len) : malloc(len);
}

static void
hook_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	if (in_arena(p))
		arena_free(p);
	else
		wiping_free(p); /* the buffers of a TLS connection had keys in them */
}

static void *
hook_realloc(void *p, size_t len, const char *file, int line)
{
	size_t have;
	void *new;

	if (p == NULL)
		return hook_malloc(len, file, line);
	if (len == 0) {
		hook_free(p, file, line);
		return NULL;
	}
	if (!in_arena(p))
		return wiping_realloc(p, len);
	have = chunk_size((struct chunk *)p - 1) - sizeof(struct chunk);
	if (len <= have)
		return p;
	new = arena_alloc(len);
	if (new != NULL) {
		memcpy(new, p, have);
		arena_free(p);
	}
	return new;
}

int
secmem_hook_openssl(struct err *err)
{
	if (CRYPTO_set_mem_functions(hook_malloc, hook_realloc, hook_free) != 1)
		return err_set(err, ERR_FAILED, "libcrypto was used before its memory could be protected");
	return 0;
}

int
secmem_hook_private_openssl(struct err *err)
{
	if (secmem_hook_openssl(err) != 0)
		return -1;
	if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL) != 1)
		return err_set(err, ERR_FAILED, "could not set up libcrypto");
	return 0;
}
