/* Secure memory: the allocator, fork, limits, and that libcrypto's key schedules are in it and nowhere else. */
#include "walcrypt/secmem.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/page.h"
#include "walcrypt/random.h"

#define ARENA (256 * 1024)

#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#elif defined(__has_feature)
#define ASAN __has_feature(address_sanitizer)
#else
#define ASAN 0
#endif

/* runs f in a child; returns its exit status, or 128 + signal */
static int
in_child(int (*f)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(f());
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int
limited(void)
{
	struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
	struct err err = {0};

	setrlimit(RLIMIT_MEMLOCK, &limit);
	if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		return 3;
	if (secmem_init(128 * 1024, &err) == 0)
		return 1;
	if (err.class != ERR_REFUSED || err.os_errno == 0 || strstr(err.detail, "64 kB") == NULL ||
	    strstr(err.hint, "128 kB") == NULL)
		return 2;
	if (secmem_init(64 * 1024, &err) != 0) /* all that Docker's old default allows */
		return 4;
	return secmem_alloc(1024, &err) != NULL ? 0 : 5;
}

static int
missing(void)
{
	struct err err = {0};

	return secmem_alloc(16, &err) == NULL && err.class == ERR_FAILED && strstr(err.text, "not set up") != NULL ? 0 : 1;
}

static int
late(void)
{
	struct err err = {0};
	uint8_t byte;

	return random_bytes(&byte, 1, &err) == 0 && secmem_hook_openssl(&err) == -1 &&
	               strstr(err.text, "used before") != NULL
	           ? 0
	           : 1;
}

static void
allocator(void)
{
	enum { N = 200 };
	uint8_t *p[N] = {0};
	size_t len[N] = {0}, total = 0;
	uint64_t seed = 1;
	struct err err = {0};
	bool zeroed = true, kept = true;
	void *big;

	for (int round = 0; round < 20000; round++) {
		int i;

		seed = seed * UINT64_C(6364136223846793005) + 1;
		i = (int)(seed >> 33) % N;
		if (p[i] != NULL) {
			for (size_t k = 0; k < len[i]; k++)
				kept &= p[i][k] == (uint8_t)i;
			total -= len[i];
			secmem_free(p[i]);
			p[i] = NULL;
			continue;
		}
		len[i] = (seed >> 50) % 1500 + 1;
		if ((p[i] = secmem_alloc(len[i], &err)) == NULL)
			continue;
		total += len[i];
		for (size_t k = 0; k < len[i]; k++)
			zeroed &= p[i][k] == 0;
		zeroed &= (uintptr_t)p[i] % 16 == 0;
		memset(p[i], i, len[i]);
		if (secmem_used() < total)
			kept = false;
	}
	ok(zeroed, "what is handed out is zeroed and aligned");
	ok(kept, "and belongs to one");
	for (int i = 0; i < N; i++)
		secmem_free(p[i]);
	is_int(secmem_used(), 0, "all given back");
	big = secmem_alloc(ARENA - 16, &err);
	ok(big != NULL, "the free pieces grew together again");
	ok(secmem_alloc(1, &err) == NULL, "now it is full");
	is_err(&err, ERR_FAILED, "out of memory for keys", "... and says so");
	secmem_free(big);
	ok(secmem_alloc(ARENA, &err) == NULL && secmem_alloc(SIZE_MAX, &err) == NULL, "more than there is");
	secmem_free(NULL);
	ok((big = secmem_alloc(0, &err)) != NULL, "nothing is something");
	secmem_free(big);
}

static void *volatile probe;

static int
behind(void)
{
	uint8_t *p = secmem_alloc(16, &(struct err){0});

	signal(SIGSEGV, SIG_DFL);                    /* a sanitizer has its own */
	p = (uint8_t *)((uintptr_t)p / 4096 * 4096); /* the arena's start */
	((volatile uint8_t *)p)[ARENA] = 1;
	return 0;
}

static int
before(void)
{
	uint8_t *p = secmem_alloc(16, &(struct err){0});

	signal(SIGSEGV, SIG_DFL);
	p = (uint8_t *)((uintptr_t)p / 4096 * 4096);
	((volatile uint8_t *)p)[-1] = 1;
	return 0;
}

static int
twice(void)
{
	probe = secmem_alloc(16, &(struct err){0});
	secmem_free(probe);
	signal(SIGABRT, SIG_DFL);
	secmem_free(probe);
	return 0;
}

static int
relocked(void)
{
	struct err err = {0};

	return secmem_relock(&err) == 0 && memcmp(probe, "inherited", 9) == 0 && secmem_alloc(16, &err) != NULL ? 0 : 1;
}

static void *
worker(void *arg)
{
	struct err err = {0};

	for (int i = 0; i < 2000; i++) {
		uint8_t *p = secmem_alloc(64, &err);

		if (p == NULL)
			return arg;
		memset(p, 1, 64);
		secmem_free(p);
	}
	return NULL;
}

/* while other threads hold the lock again and again, a forked child must find it free */
static void
threads(void)
{
	pthread_t t[4];
	void *bad = NULL, *each;
	int children = 0;

	probe = secmem_alloc(16, &(struct err){0});
	memcpy(probe, "inherited", 9);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, worker, t);
	for (int i = 0; i < 20; i++)
		children += in_child(relocked) == 0;
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &each);
		bad = each != NULL ? each : bad;
	}
	ok(bad == NULL, "four threads at once");
	is_int(children, 20, "forked children meanwhile lock again and allocate");
	secmem_free(probe);
}

/* Where in this process's writable memory is needle (given inverted, so that this search is not its own find)? */
static void
search(const uint8_t *inverted, size_t len, const uint8_t *arena, int *inside, int *outside)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	*inside = *outside = 0;
	while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;
		char mode[8];

		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[0] != 'r' || mode[1] != 'w')
			continue;
		/* a sanitizer's shadow must not be walked over */
		if (ASAN && ((const uint8_t *)from > arena || (const uint8_t *)to <= arena))
			continue;
		for (const volatile uint8_t *p = (const uint8_t *)from; p + len <= (const uint8_t *)to; p++) {
			size_t k = 0;

			while (k < len && p[k] + inverted[k] == 0xFF)
				k++;
			if (k < len)
				continue;
			if (p >= arena && p < arena + ARENA)
				(*inside)++;
			else
				(*outside)++;
		}
	}
	if (maps != NULL)
		fclose(maps);
}

static void
key_schedules(void)
{
	uint8_t inverted[32], key[64], page[PAGE_LEN], *mark = secmem_alloc(16, &(struct err){0});
	const uint8_t *arena = (const uint8_t *)((uintptr_t)mark / 4096 * 4096);
	struct data_key relation;
	struct page_cipher *c;
	struct page_at at = {.db = 1, .rel = 2};
	struct err err = {0};
	int inside, outside;
	size_t before_used;

	sample_key(&relation, KEY_AES256, 3);
	key_derive(relation.bytes, 32, "walcrypt page xts v1", key, 64, &err);
	for (size_t i = 0; i < sizeof(inverted); i++)
		inverted[i] = key[i] ^ 0xFF;
	secmem_wipe(key, sizeof(key));
	before_used = secmem_used();
	c = page_cipher_new(&relation, &err);
	sample_noise(1, page, PAGE_LEN);
	page_encrypt(c, &at, page, page, &err);
	page_decrypt(c, &at, page, page, &err);
	ok(secmem_used() > before_used, "a cipher takes secure memory");
	search(inverted, sizeof(inverted), arena, &inside, &outside);
	ok(inside > 0, "the page key is in secure memory (%d times)", inside);
#if !ASAN
	is_int(outside, 0, "and nowhere else in this process");
#endif
	page_cipher_free(c);
	is_int(secmem_used(), before_used, "given back");
	search(inverted, sizeof(inverted), arena, &inside, &outside);
	is_int(inside, 0, "and wiped");
	secmem_free(mark);
}

int
main(void)
{
	struct err err = {0};

	is_int(in_child(missing), 0, "without an arena nothing is handed out");
#if !ASAN /* whose mlock does nothing */
	is_int(in_child(limited), 0, "a limit of 64 kB refuses 128 kB, names both, and allows 64 kB");
#else
	(void)limited;
#endif
	is_int(in_child(late), 0, "the allocator comes too late once libcrypto has been used, and that is said");
	ok(secmem_hook_private_openssl(&err) == 0, "libcrypto takes our allocator");
	ok(secmem_init(ARENA, &err) == 0, "an arena");
	ok(secmem_init(ARENA * 2, &err) == 0, "again is nothing");
	ok(secmem_equal("abcd", "abcd", 4) && secmem_equal("abcd", "abce", 3) && !secmem_equal("abcd", "abce", 4),
	   "equal bytes");
	allocator();
	is_int(in_child(behind), 128 + SIGSEGV, "a guard page behind");
	is_int(in_child(before), 128 + SIGSEGV, "a guard page before");
	is_int(in_child(twice), 128 + SIGABRT, "freeing twice ends the process");
	threads();
	key_schedules();
	is_int(secmem_used(), 0, "nothing is left");
	return tap_done();
}
