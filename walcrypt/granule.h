/*
 * granule: zero bytes and aligned 8-byte zero granules, found and kept at the speed of memory. Private to walcrypt/.
 * Addresses need no alignment; "aligned" counts from the start of the range, whose length is a multiple of 8.
 */
#ifndef WALCRYPT_GRANULE_H
#define WALCRYPT_GRANULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRANULE_LEN 8

/* Are all len bytes zero? len a multiple of 8. */
bool granule_all_zero(const uint8_t *p, size_t len);
/*
 * Which granules are zero: bit i % 64 of map[i / 64] says it of granule i. len at most GRANULE_MAP_LEN. Returns whether
 * any is. Each byte is looked at once, so map holds of bytes that change meanwhile what they were at some moment.
 */
#define GRANULE_MAP_LEN 8192
#define GRANULE_MAP_WORDS (GRANULE_MAP_LEN / GRANULE_LEN / 64)
bool granule_find_zero(const uint8_t *p, size_t len, uint64_t map[static GRANULE_MAP_WORDS]);
/* Make the granules zero that map names. */
void granule_clear(uint8_t *p, size_t len, const uint64_t map[static GRANULE_MAP_WORDS]);
/* Bytes in front of the trailing run of zero granules. */
size_t granule_len_without_tail(const uint8_t *p, size_t len);
/* out = value where src's granule is not zero, and zero where it is. out may be value or src. */
void granule_mask(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len);

#endif
