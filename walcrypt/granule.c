#include "walcrypt/granule.h"

#include <string.h>

/* 32 bytes at a time: one register where there is AVX2, two of SSE2 otherwise; the compiler sees to the rest. */
typedef uint64_t vec64 __attribute__((vector_size(32)));
typedef uint32_t vec32 __attribute__((vector_size(32)));

#define VEC sizeof(vec64)

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))
#define HAVE_WIDE() (__builtin_cpu_supports("avx2") != 0)
#else
#define WIDE
#define HAVE_WIDE() 0
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t
load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

bool
granule_all_zero(const uint8_t *p, size_t len)
{
	size_t i = 0;

	/* almost every range that is not zero shows it in its first bytes */
	for (; i + 4 * GRANULE_LEN <= len; i += 4 * GRANULE_LEN)
		if ((load64(p + i) | load64(p + i + 8) | load64(p + i + 16) | load64(p + i + 24)) != 0)
			return false;
	for (; i < len; i += GRANULE_LEN)
		if (load64(p + i) != 0)
			return false;
	return true;
}

/*
 * A zero granule has a zero first half, and those are rare in ciphertext: comparing halves needs only SSE2's compare.
 * The results are or'ed together over the whole range, so the loop has no branch.
 */
INLINE bool
maybe_zero(const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len;
	vec32 a = {0}, b = {0}, v, w;

	/* a WAL page's body begins 24 bytes into it, and loads across cache lines would take twice as long */
	for (; p < end && (uintptr_t)p % VEC != 0; p += GRANULE_LEN)
		if (load64(p) == 0)
			return true;
	for (; (size_t)(end - p) >= 4 * VEC; p += 4 * VEC) {
		memcpy(&v, p, VEC);
		memcpy(&w, p + VEC, VEC);
		a |= (vec32)(v == 0);
		b |= (vec32)(w == 0);
		memcpy(&v, p + 2 * VEC, VEC);
		memcpy(&w, p + 3 * VEC, VEC);
		a |= (vec32)(v == 0);
		b |= (vec32)(w == 0);
	}
	for (size_t i = 0; i < VEC / sizeof(uint32_t); i++)
		if ((a[i] | b[i]) != 0)
			return true;
	for (; p < end; p += GRANULE_LEN)
		if (load64(p) == 0)
			return true;
	return false;
}

INLINE void
mask_one(const uint8_t *src, const uint8_t *value, uint8_t *out)
{
	uint64_t v = load64(src) != 0 ? load64(value) : 0;

	memcpy(out, &v, sizeof(v));
}

INLINE void
mask(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len)
{
	size_t i = 0;

	for (; i < len && (uintptr_t)(src + i) % VEC != 0; i += GRANULE_LEN)
		mask_one(src + i, value + i, out + i);
	for (; i + VEC <= len; i += VEC) {
		vec64 s, v;

		memcpy(&s, src + i, VEC);
		memcpy(&v, value + i, VEC);
		v &= ~(vec64)(s == 0);
		memcpy(out + i, &v, VEC);
	}
	for (; i < len; i += GRANULE_LEN)
		mask_one(src + i, value + i, out + i);
}

WIDE static bool
maybe_zero_wide(const uint8_t *p, size_t len)
{
	return maybe_zero(p, len);
}

WIDE static void
mask_wide(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len)
{
	mask(src, value, out, len);
}

bool
granule_maybe_zero(const uint8_t *p, size_t len)
{
	return HAVE_WIDE() ? maybe_zero_wide(p, len) : maybe_zero(p, len);
}

size_t
granule_len_without_tail(const uint8_t *p, size_t len)
{
	while (len >= 4 * GRANULE_LEN &&
	       (load64(p + len - 8) | load64(p + len - 16) | load64(p + len - 24) | load64(p + len - 32)) == 0)
		len -= 4 * GRANULE_LEN;
	while (len >= GRANULE_LEN && load64(p + len - GRANULE_LEN) == 0)
		len -= GRANULE_LEN;
	return len;
}

void
granule_mask(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len)
{
	if (HAVE_WIDE())
		mask_wide(src, value, out, len);
	else
		mask(src, value, out, len);
}
