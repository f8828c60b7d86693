#include "tests/unit/failmalloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

void *__real_malloc(size_t len);
void *__real_calloc(size_t n, size_t len);
void *__real_realloc(void *p, size_t len);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__real_secmem_alloc(size_t len, struct err *err);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t n, size_t len);
void *__wrap_realloc(void *p, size_t len);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void *__wrap_secmem_alloc(size_t len, struct err *err);

static atomic_long left; /* allocations until the one that fails; 0: none will */
static atomic_bool failed;

static bool
fails(void)
{
	if (atomic_load(&left) <= 0 || atomic_fetch_sub(&left, 1) != 1)
		return false;
	atomic_store(&failed, true);
	errno = ENOMEM;
	return true;
}

void
failmalloc_at(long n)
{
	atomic_store(&failed, false);
	atomic_store(&left, n);
}

int
failmalloc_each(int (*run)(void *arg), void *arg)
{
	for (int n = 1;; n++) {
		bool hit;
		int rc;

		failmalloc_at(n);
		rc = run(arg);
		hit = atomic_load(&failed);
		failmalloc_at(0);
		if (rc != 0 && rc != -1)
			return -1;
		if (!hit)
			return rc == 0 ? n - 1 : -1;
	}
}

void *
__wrap_malloc(size_t len)
{
	return fails() ? NULL : __real_malloc(len);
}

void *
__wrap_calloc(size_t n, size_t len)
{
	return fails() ? NULL : __real_calloc(n, len);
}

void *
__wrap_realloc(void *p, size_t len)
{
	return fails() ? NULL : __real_realloc(p, len);
}

char *
__wrap_strdup(const char *s)
{
	return fails() ? NULL : __real_strdup(s);
}

char *
__wrap_strndup(const char *s, size_t n)
{
	return fails() ? NULL : __real_strndup(s, n);
}

void *
__wrap_secmem_alloc(size_t len, struct err *err)
{
	if (fails()) {
		err_nomem(err);
		return NULL;
	}
	return __real_secmem_alloc(len, err);
}
