/*
 * page: relation pages, AES-XTS, one data unit per 8192-byte page.
 *
 * Tweak, 16 bytes little-endian:  0 database OID (4) | 4 relation file number (4) | 8 block from the start of the fork,
 * segments included (4) | 12 fork (1) | 13 temporary (1) | 14 zero (2).
 * An all-zero page is stored as zeros; on read, an all-zero 512-byte sector is zeros (torn first write, finding R3).
 * Limits: no integrity; equal pages at the same place are equal on disk (docs/threat-model.md).
 */
#ifndef WALCRYPT_PAGE_H
#define WALCRYPT_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

#define PAGE_LEN 8192
#define PAGE_SECTOR_LEN 512
#define PAGE_BLOCKS_PER_SEGMENT 131072u /* 1 GiB segments */

enum page_fork { PAGE_FORK_MAIN = 0, PAGE_FORK_FSM = 1, PAGE_FORK_VM = 2, PAGE_FORK_INIT = 3 };

struct page_at {
	uint32_t db;    /* 0 for shared relations */
	uint32_t rel;   /* relation file number */
	uint32_t block; /* from the start of the fork, not of the segment */
	uint8_t fork;   /* enum page_fork */
	bool temp;
};

/* Cipher contexts for one relation key; one object per thread. Context and key schedule live in secmem. */
struct page_cipher;
struct page_cipher *page_cipher_new(const struct data_key *relation_key, struct err *err);
void page_cipher_free(struct page_cipher *c);

/* in[PAGE_LEN] -> out[PAGE_LEN]; in == out allowed, other overlap not. 0, or -1 with err set and out zeroed. */
int page_encrypt(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, struct err *err);
int page_decrypt(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, struct err *err);
/* n pages in a row, at->block the first's. Same rules. With in != out, in may change meanwhile: a cipher reads each
 * block of 16 bytes once, so what is written is what stood there at some moment, as if it had been copied first. */
int page_encrypt_many(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, uint32_t n,
                      struct err *err);
int page_decrypt_many(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, uint32_t n,
                      struct err *err);

bool page_is_zero(const uint8_t *page); /* PAGE_LEN bytes */
/* PostgreSQL's data checksum of a clear page (storage/checksum_impl.h), and what is stored in the page.
 * block is the block number the server uses: from the start of the fork. A zero page has none (callers skip it). */
uint16_t page_checksum(const uint8_t *page, uint32_t block);
uint16_t page_stored_checksum(const uint8_t *page);
/* Has the server never put anything on this clear page (PageIsNew)? */
bool page_is_new(const uint8_t *page);
/* Has it a header that a server's page can have (bufpage.h)? Noise has one in less than one of 65536 cases. */
bool page_is_plausible(const uint8_t *page);
/* pd_lsn of a clear page. */
uint64_t page_lsn(const uint8_t *page);

#endif
