/* Pages that another process changes while they are encrypted out of its memory, as shared buffers and WAL buffers are.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

#define ROUNDS 4000
/* and more until so many pages were caught half filled, but not for ever: there may be one processor */
#define ENOUGH 300
#define MOST_ROUNDS 100000
#define WORDS (PAGE_LEN / 8)

struct shared {
	_Atomic uint64_t page[WORDS];
	uint64_t final[WORDS];
	atomic_uint round;
};

static struct shared *shared;

/* Hint bits: one bit of every block of 16 bytes, set and cleared again and again. */
static void
toggle(void)
{
	for (;;)
		for (size_t i = 0; i < WORDS; i += 2)
			atomic_fetch_xor_explicit(&shared->page[i], 1, memory_order_relaxed);
}

/* Records: in each round zeros become what they stay. */
static void
fill(void)
{
	for (unsigned seen = 0, now; (now = atomic_load(&shared->round)) != UINT32_MAX;) {
		if (now == seen) {
			sched_yield();
			continue;
		}
		seen = now;
		for (size_t i = WAL_HEADER_LEN / 8; i < WORDS && atomic_load(&shared->round) == seen; i++) {
			atomic_store_explicit(&shared->page[i], shared->final[i], memory_order_relaxed);
			for (int slow = 0; slow < 20; slow++) /* a few times as long as encrypting */
				(void)atomic_load(&shared->round);
		}
	}
}

static pid_t
run_beside(void (*change)(void))
{
	pid_t parent = getpid(), pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		change();
	_exit(0);
}

static void
end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void
hint_bits(void)
{
	struct page_at at = {.db = 5, .rel = 16384};
	uint64_t before[WORDS], text[WORDS];
	uint8_t out[PAGE_LEN];
	struct data_key key;
	struct page_cipher *c;
	struct err err = {0};
	int mixed = 0, wrong = 0;
	pid_t pid;

	sample_key(&key, KEY_AES256, 7);
	c = page_cipher_new(&key, &err);
	sample_noise(1, (uint8_t *)before, sizeof(before));
	memcpy(shared->page, before, sizeof(before));
	pid = run_beside(toggle);
	for (int round = 0; round < ROUNDS; round++) {
		int set = 0;

		at.block = (uint32_t)round;
		wrong += page_encrypt(c, &at, (const uint8_t *)shared->page, out, &err) != 0 ||
		         page_decrypt(c, &at, out, (uint8_t *)text, &err) != 0;
		for (size_t i = 0; i < WORDS; i++) {
			wrong += (text[i] & ~UINT64_C(1)) != (before[i] & ~UINT64_C(1)) || (i % 2 == 1 && text[i] != before[i]);
			set += text[i] != before[i];
		}
		mixed += set > 0 && set < WORDS / 2;
	}
	end(pid);
	ok(wrong == 0, "every block of a page is one that stood there: %d wrong, %d of %d pages were caught in a change",
	   wrong, mixed, ROUNDS);
	page_cipher_free(c);
}

static void
records(void)
{
	struct keyset *ks = sample_keyset(KEY_AES256);
	uint8_t out[WAL_PAGE_LEN], whole[WAL_PAGE_LEN];
	struct err err = {0};
	struct wal_cipher *c = wal_cipher_new(ks, &err);
	int mixed = 0, wrong = 0;
	unsigned round;
	pid_t pid;

	sample_wal_page((uint8_t *)shared->final, 1, 0x3002000, 0, 5);
	for (size_t i = WAL_HEADER_LEN / 8; i < WORDS; i++)
		shared->final[i] |= 1;
	wal_page_encrypt(c, 5, true, (const uint8_t *)shared->final, whole, &err);
	pid = run_beside(fill);
	for (round = 1; round <= MOST_ROUNDS && (round <= ROUNDS || mixed < ENOUGH); round++) {
		int zeros = 0, wait = 0;

		memset(shared->page, 0, sizeof(shared->page));
		memcpy(shared->page, shared->final, WAL_HEADER_LEN);
		atomic_store(&shared->round, round);
		/* until it has begun, here or there in the page */
		while (wait < 10000 && atomic_load(&shared->page[WAL_HEADER_LEN / 8 + round % 512]) == 0)
			wait++;
		if (wait == 10000)
			sched_yield();
		wrong += wal_page_encrypt(c, 5, true, (const uint8_t *)shared->page, out, &err) != 0;
		for (size_t i = WAL_HEADER_LEN; i < WAL_PAGE_LEN; i += 8) {
			bool zero = memcmp(out + i, (uint8_t[8]){0}, 8) == 0;

			zeros += zero;
			wrong += !zero && memcmp(out + i, whole + i, 8) != 0;
		}
		mixed += zeros > 0 && zeros < (int)WORDS - 3;
	}
	end(pid);
	ok(wrong == 0,
	   "every granule of a last page is raw zero or what it stays (W2): %d wrong, %d of %d pages were half filled",
	   wrong, mixed, (int)round - 1);
	wal_cipher_free(c);
	keyset_free(ks);
}

int
main(void)
{
	sample_secmem(65536);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	hint_bits();
	records();
	return tap_done();
}
