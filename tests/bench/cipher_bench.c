/*
 * What a page costs in the core: GB/s of 8 KiB pages, one core, the buffer in the first-level cache.
 *
 *   cipher_bench [SECONDS]     one line each: NAME GB/s
 *   cipher_bench NAME PAGES    so many pages of one, for a tool that counts what a page takes
 *
 * Compare with `openssl speed -evp aes-256-xts -bytes 8192`. Rounds of all are interleaved and the best of each is
 * shown, so that what else the machine does falls on all alike.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/timing.h"
#include "walcrypt/page.h"
#include "walcrypt/secmem.h"
#include "walcrypt/wal.h"

#define BATCH 256
#define MAX_ROUNDS 10000

static struct page_cipher *pages;
static struct wal_cipher *wal;
static uint8_t clear_page[PAGE_LEN], page[PAGE_LEN], clear_wal[WAL_PAGE_LEN], wal_page[WAL_PAGE_LEN],
    holed[WAL_PAGE_LEN], holed_page[WAL_PAGE_LEN], out[PAGE_LEN];
static struct err err;

static int
encrypt_page(uint32_t i)
{
	struct page_at at = {.db = 5, .rel = 16384, .block = i};

	return page_encrypt(pages, &at, clear_page, out, &err);
}

static int
decrypt_page(uint32_t i)
{
	struct page_at at = {.db = 5, .rel = 16384, .block = i};

	return page_decrypt(pages, &at, page, out, &err);
}

static int
encrypt_wal(uint32_t i)
{
	(void)i;
	return wal_page_encrypt(wal, 5, false, clear_wal, out, &err);
}

static int
decrypt_wal(uint32_t i)
{
	(void)i;
	return wal_page_decrypt(wal, wal_page, out, &err);
}

static int
encrypt_last(uint32_t i)
{
	(void)i;
	return wal_page_encrypt(wal, 5, true, holed, out, &err);
}

static int
decrypt_holes(uint32_t i)
{
	(void)i;
	return wal_page_decrypt(wal, holed_page, out, &err);
}

static int
checksum(uint32_t i)
{
	return page_checksum(clear_page, i) == 0; /* never 0 */
}

static int
zero_scan(uint32_t i)
{
	static const uint8_t zeros[PAGE_LEN];

	(void)i;
	return !page_is_zero(zeros);
}

static struct {
	const char *name;
	int (*run)(uint32_t);
} what[] = {
    {"page-encrypt", encrypt_page},
    {"page-decrypt", decrypt_page},
    {"wal-page-encrypt", encrypt_wal},
    {"wal-page-decrypt", decrypt_wal},
    {"wal-last-page-encrypt", encrypt_last}, /* half of its granules zero */
    {"wal-last-page-decrypt", decrypt_holes},
    {"page-checksum", checksum},
    {"zero-page-scan", zero_scan},
};

#define N (sizeof(what) / sizeof(what[0]))

static struct {
	size_t n;
	double rate[MAX_ROUNDS];
} rounds[N];

static int
setup(void)
{
	struct data_key key = {.len = 32};
	struct keyset_epoch epoch = {.number = 1};
	struct keyset *ks;
	uint64_t seed = 1;
	uint16_t magic = 0xD110;

	for (size_t i = 0; i < PAGE_LEN; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		clear_page[i] = clear_wal[i] = holed[i] = (uint8_t)(seed >> 56);
		key.bytes[i % 32] ^= clear_page[i];
	}
	for (size_t i = 0; i < PAGE_LEN; i += 16)
		memset(holed + i, 0, 8);
	epoch.key = key;
	for (size_t k = 0; k < 2; k++) {
		uint8_t *header = k == 0 ? clear_wal : holed;

		memset(header, 0, WAL_HEADER_LEN);
		memcpy(header, &magic, 2);
		header[4] = 1;
		header[10] = 1;
	}
	if (secmem_hook_openssl(&err) != 0 || secmem_init(65536, &err) != 0 ||
	    (ks = keyset_new(KEY_AES256, 1, &key, &epoch, 1, &err)) == NULL ||
	    (pages = page_cipher_new(&key, &err)) == NULL || (wal = wal_cipher_new(ks, &err)) == NULL)
		return -1;
	return page_encrypt(pages, &(struct page_at){.db = 5, .rel = 16384}, clear_page, page, &err) != 0 ||
	               wal_page_encrypt(wal, 5, false, clear_wal, wal_page, &err) != 0 ||
	               wal_page_encrypt(wal, 5, true, holed, holed_page, &err) != 0
	           ? -1
	           : 0;
}

static int
run_pages(size_t i, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++)
		if (what[i].run(k) != 0) {
			fprintf(stderr, "cipher_bench: %s failed: %s\n", what[i].name, err.text);
			return 1;
		}
	return 0;
}

static int
run_one(const char *name, uint32_t n)
{
	for (size_t i = 0; i < N; i++)
		if (strcmp(name, what[i].name) == 0)
			return run_pages(i, n);
	fprintf(stderr, "cipher_bench: there is no \"%s\"\n", name);
	return 1;
}

int
main(int argc, char **argv)
{
	double end, seconds = argc > 1 ? strtod(argv[1], NULL) : 4;

	if (setup() != 0) {
		fprintf(stderr, "cipher_bench: %s\n", err.text);
		return 1;
	}
	if (argc > 2)
		return run_one(argv[1], (uint32_t)strtoul(argv[2], NULL, 10));
	for (end = timing_now() + seconds; timing_now() < end;)
		for (size_t i = 0; i < N; i++) {
			double from = timing_now();

			if (run_pages(i, BATCH) != 0)
				return 1;
			if (rounds[i].n < MAX_ROUNDS)
				rounds[i].rate[rounds[i].n++] = (double)BATCH * PAGE_LEN / (timing_now() - from) / 1e9;
		}
	for (size_t i = 0; i < N; i++) {
		qsort(rounds[i].rate, rounds[i].n, sizeof(double), timing_order);
		printf("%s %.2f GB/s\n", what[i].name, rounds[i].rate[rounds[i].n / 2]);
	}
	return 0;
}
