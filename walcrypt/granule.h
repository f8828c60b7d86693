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
/* Is there a zero granule among them? May say true when there is none (2^-21 of random pages), never false when there
 * is. */
bool granule_maybe_zero(const uint8_t *p, size_t len);
/* Bytes in front of the trailing run of zero granules. */
size_t granule_len_without_tail(const uint8_t *p, size_t len);
/* out = value where src's granule is not zero, and zero where it is. out may be value or src. */
void granule_mask(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len);

#endif
