/* load: integers in host order out of bytes of any alignment, as PostgreSQL's own structs lie on disk and wire. */
#ifndef WALCRYPT_LOAD_H
#define WALCRYPT_LOAD_H

#include <stdint.h>
#include <string.h>

static inline uint16_t
load16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t
load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t
load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

#endif
