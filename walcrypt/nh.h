/*
 * nh: the universal hash NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) of blocks of 1024 bytes, four times
 * side by side with the key shifted (its Toeplitz form): each block becomes 32 bytes.
 *
 * Whoever does not know the key finds two blocks with one hash with a probability of 2^-128. By itself it hides
 * nothing: what it gives goes into a MAC. docs/formats/ledger.md has the definition.
 */
#ifndef WALCRYPT_NH_H
#define WALCRYPT_NH_H

#include <stddef.h>
#include <stdint.h>

#define NH_BLOCK 1024
#define NH_LEN 32
#define NH_KEY_LEN (NH_BLOCK + 3 * 32)

/* n blocks, one after the other; out has NH_LEN bytes for each. No alignment is needed. */
void nh_hash(const uint8_t key[static NH_KEY_LEN], const uint8_t *blocks, size_t n, uint8_t *out);
/* The same where the processor has no AVX2. */
void nh_hash_plain(const uint8_t key[static NH_KEY_LEN], const uint8_t *blocks, size_t n, uint8_t *out);

#endif
