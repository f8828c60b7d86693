/*
 * wal: WAL pages, AES-CTR under a WAL key's epoch; the format is the same on disk and on the wire
 * (docs/formats/wal.md).
 *
 * The header (24 bytes; 40 with XLP_LONG_HEADER) stays readable, with two additions:
 *   bytes 2-3  xlp_info: bit 15 encrypted, bits 8-14 epoch modulo 128, low bits PostgreSQL's
 *   bytes 20-23 (zero in PostgreSQL) generation, host order as the rest of the header
 * Counter block, 16 bytes big-endian: tli of the header (4) | generation (4) | page number = pageaddr >> 13 (6) | AES
 * block in the page (2). Unique because: tli and page number name the page, the generation names who wrote it when
 * (invariant W5).
 *
 * Zero granules: aligned 8 bytes. Which of them are stored raw is rule W2; in a page that carries the flag, every
 * raw-zero granule reads as zero (R1), and no function here turns a raw-zero granule it read into keystream (W3).
 */
#ifndef WALCRYPT_WAL_H
#define WALCRYPT_WAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/keyset.h"

#define WAL_PAGE_LEN 8192
#define WAL_HEADER_LEN 24
#define WAL_LONG_HEADER_LEN 40
#define WAL_GRANULE 8
#define WAL_MAX_PAGEADDR (UINT64_C(1) << 61) /* exclusive: the counter block has 48 bits for the page number */

#define WAL_INFO_LONG 0x0002
#define WAL_INFO_KNOWN 0x000F /* all flags of PostgreSQL 15-18 */
#define WAL_INFO_ENCRYPTED 0x8000
#define WAL_INFO_EPOCH_SHIFT 8
#define WAL_INFO_EPOCH_MASK 0x7F00
#define WAL_GENERATION_PROXY 0x80000000u /* top bit: encrypted by a proxy from a plaintext upstream */

struct wal_header {
	uint16_t magic;
	uint16_t info; /* PostgreSQL's bits only */
	uint32_t tli;
	uint64_t pageaddr; /* LSN of the page's first byte */
	uint32_t rem_len;
	bool encrypted;
	uint8_t epoch7;      /* epoch modulo 128 as written, when encrypted */
	uint32_t generation; /* when encrypted; 0 on a clear page */
	size_t len;          /* 24 or 40 */
	/* from a long header (valid when len is 40 and 40 bytes were given): */
	uint64_t system_identifier;
	uint32_t segment_size, page_size;
};

enum wal_page_kind {
	WAL_PAGE_ZERO, /* the bytes given are all zero */
	WAL_PAGE_CLEAR,
	WAL_PAGE_ENCRYPTED,
	WAL_PAGE_INVALID /* no valid header: magic >> 8 != 0xD1, pageaddr not aligned or 2^61 and more, tli 0, unknown info
	                    bits, clear with padding set */
};

/* Look at the first len (>= 24) bytes of a page; h is filled unless ZERO or INVALID (zeroed then). ZERO looks at the
 * header bytes only. */
enum wal_page_kind wal_page_look(const uint8_t *page, size_t len, struct wal_header *h);
/* Put flag, epoch and generation into the header bytes of a clear page; and take them out. Only bytes 2-3 and 20-23
 * change. */
void wal_header_seal(uint8_t *page, unsigned epoch, uint32_t generation);
void wal_header_open(uint8_t *page);

/* Cipher contexts for all epochs of a keyset; one object per thread; the keyset must outlive it. */
struct wal_cipher;
struct wal_cipher *wal_cipher_new(const struct keyset *ks, struct err *err);
void wal_cipher_free(struct wal_cipher *c);

/*
 * XOR the keystream of page (tli, generation, pageaddr) from byte `off` of the page on into data[0..len), in place or
 * not. Bytes of the header must not be passed. epoch7 names the key; one that the keyset lacks: ERR_WRONG_KEY, naming
 * it. This is raw CTR: callers see to granules themselves. off and len need no alignment.
 */
int wal_cipher_xor(struct wal_cipher *c, unsigned epoch7, uint32_t tli, uint32_t generation, uint64_t pageaddr,
                   size_t off, const uint8_t *in, uint8_t *out, size_t len, struct err *err);

/*
 * Encrypt a whole clear page under the keyset's write epoch for the header's tli (W2 applied: trailing zero granules
 * raw; with last, every zero granule raw). A zero page is copied. in == out allowed; else in may be memory whose body
 * goes on being filled: each byte is then encrypted as it was at some moment, and what was zero before stays raw zero.
 * A page without a valid clear header: ERR_REFUSED, out untouched. No key for the tli: ERR_WRONG_KEY, out untouched.
 * The cipher itself failed: out zeroed.
 */
int wal_page_encrypt(struct wal_cipher *c, uint32_t generation, bool last, const uint8_t *in, uint8_t *out,
                     struct err *err);
/*
 * Decrypt a whole page to what PostgreSQL wrote. A zero or clear page is copied, and so is one without a valid header:
 * recycled garbage is not our error, the server sees it as it is. in == out allowed.
 * Epoch unknown: ERR_WRONG_KEY, out untouched. The cipher itself failed: out zeroed.
 */
int wal_page_decrypt(struct wal_cipher *c, const uint8_t *in, uint8_t *out, struct err *err);

/* Decrypt in place data[0..len) = bytes from `off` (multiple of 8) of a page whose header h is known; len a multiple
 * of 8. Every raw-zero granule stays zero. Header bytes inside the range are opened (flag and generation removed). */
int wal_range_decrypt(struct wal_cipher *c, const struct wal_header *h, size_t off, uint8_t *data, size_t len,
                      struct err *err);
/* The reverse for bytes of a clear page, from in to out (in == out allowed, other overlap not): every byte ciphertext
 * (a proxy, W3), or with raw_zeros every zero granule raw (W2 last page). */
int wal_range_encrypt(struct wal_cipher *c, const struct wal_header *h, uint32_t generation, bool raw_zeros, size_t off,
                      const uint8_t *in, uint8_t *out, size_t len, struct err *err);

/* Generation of a proxy that encrypts plaintext (W5): 0x80000000 | trunc31(HMAC-SHA256(HKDF(wal key, "walcrypt wal
 * generation v1"), system identifier (8, BE) | timeline (4, BE) | SHA-256 of the timeline's history file, zeros for
 * timeline 1 (32) | incarnation (8, BE))). The wal key is that of the write epoch for the timeline. */
int wal_proxy_generation(const struct keyset *ks, uint64_t system_identifier, uint32_t tli,
                         const uint8_t history_sha256[static 32], uint64_t incarnation, uint32_t *generation,
                         struct err *err);
/* A random 31-bit generation, top bit 0 (a server run), or with WAL_GENERATION_PROXY or'ed in by the caller. */
int wal_random_generation(uint32_t *generation, struct err *err);

#endif
