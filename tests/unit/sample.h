/* sample: the bytes that tests/decoder/decoder.py makes its vectors from, and a keyset to try things with. */
#ifndef TESTS_UNIT_SAMPLE_H
#define TESTS_UNIT_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "walcrypt/keyset.h"

/* The same as decoder.py's noise(): the top byte of a 64-bit linear congruential generator. */
void sample_noise(uint64_t seed, uint8_t *out, size_t len);
/* Zero the ranges of spec, "at+len,at+len" or "-", as decoder.py's holes(). */
void sample_holes(uint8_t *page, const char *spec);
/* A clear WAL page: header of 24 bytes (40 with long_header), body noise from seed. */
void sample_wal_page(uint8_t *page, uint32_t tli, uint64_t pageaddr, int long_header, uint64_t seed);
/* A key of the method, noise from seed. */
void sample_key(struct data_key *key, enum key_method method, uint64_t seed);
/* Epochs 1 (from the beginning), 2 (after timeline 3), 3 (after timeline 3, too). Bound to 7300000000000000007. Exits
 * on failure. */
struct keyset *sample_keyset(enum key_method method);
/* The same with another relation key, another key for epoch 1, and without epoch 3. */
struct keyset *sample_keyset_other(enum key_method method);
/* SHA-256 as hex. */
void sample_sha256(const uint8_t *data, size_t len, char hex[static 65]);
/* secmem for a test program: exits when it cannot be had. */
void sample_secmem(size_t len);

#endif
