#include "walcrypt/granule.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* 32 bytes at a time: one register where there is AVX2, two of SSE2 otherwise; the compiler sees to the rest. */
typedef uint64_t vec64 __attribute__((vector_size(32)));

#define VEC sizeof(vec64)
/* as many granules as a word of a map has bits */
#define BLOCK ((size_t)64 * GRANULE_LEN)
/* granules of a block that are cleared one by one; more are cleared faster by going over all */
#define FEW 12

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

INLINE bool
all_zero(const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len;
	vec64 any = {0}, v;

	while ((size_t)(end - p) >= BLOCK) {
		for (size_t i = 0; i < BLOCK; i += VEC) {
			memcpy(&v, p + i, VEC);
			any |= v;
		}
		if ((any[0] | any[1] | any[2] | any[3]) != 0)
			return false;
		p += BLOCK;
	}
	for (; p < end; p += GRANULE_LEN)
		if (load64(p) != 0)
			return false;
	return true;
}

INLINE uint64_t
zero_bits(const uint8_t *p, size_t n)
{
	uint64_t bits = 0;

	for (size_t i = 0; i < n; i++)
		bits |= (uint64_t)(load64(p + i * GRANULE_LEN) == 0) << i;
	return bits;
}

/* The zero granules of a block. Most blocks have none, and 16 comparisons without a branch between them show it. */
INLINE uint64_t
block_bits(const uint8_t *p)
{
	vec64 a = {0}, b = {0}, v, w;

	for (size_t i = 0; i < BLOCK; i += 2 * VEC) {
		memcpy(&v, p + i, VEC);
		memcpy(&w, p + i + VEC, VEC);
		a |= (vec64)(v == 0);
		b |= (vec64)(w == 0);
	}
	a |= b;
	return (a[0] | a[1] | a[2] | a[3]) != 0 ? zero_bits(p, 64) : 0;
}

#if defined(__x86_64__)
/* The same, written with what no compiler finds by itself. */
WIDE static inline uint64_t
block_bits_wide(const uint8_t *p)
{
	const __m256i *v = (const void *)p, zero = _mm256_setzero_si256();
	__m256i a = zero, b = zero;
	uint64_t bits = 0;

	for (size_t i = 0; i < BLOCK / VEC; i += 2) {
		a = _mm256_or_si256(a, _mm256_cmpeq_epi64(_mm256_loadu_si256(v + i), zero));
		b = _mm256_or_si256(b, _mm256_cmpeq_epi64(_mm256_loadu_si256(v + i + 1), zero));
	}
	a = _mm256_or_si256(a, b);
	if (_mm256_testz_si256(a, a))
		return 0;
	for (size_t i = 0; i < BLOCK / VEC; i++)
		bits |= (uint64_t)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_loadu_si256(v + i), zero)))
		        << 4 * i;
	return bits;
}
#else
#define block_bits_wide block_bits
#endif

INLINE bool
find_zero(const uint8_t *p, size_t len, uint64_t *map, uint64_t (*bits)(const uint8_t *))
{
	uint64_t any = 0;

	for (; len >= BLOCK; p += BLOCK, len -= BLOCK)
		any |= *map++ = bits(p);
	if (len > 0)
		any |= *map = zero_bits(p, len / GRANULE_LEN);
	return any != 0;
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

INLINE void
clear_block(uint8_t *p, uint64_t bits)
{
	const vec64 which = {1, 2, 4, 8};
	vec64 v;

	for (size_t i = 0; i < BLOCK; i += VEC, bits >>= 4) {
		memcpy(&v, p + i, VEC);
		v &= (vec64)(((vec64){bits, bits, bits, bits} & which) == 0);
		memcpy(p + i, &v, VEC);
	}
}

WIDE static void
clear_block_wide(uint8_t *p, uint64_t bits)
{
	clear_block(p, bits);
}

WIDE static bool
all_zero_wide(const uint8_t *p, size_t len)
{
	return all_zero(p, len);
}

WIDE static bool
find_zero_wide(const uint8_t *p, size_t len, uint64_t *map)
{
	return find_zero(p, len, map, block_bits_wide);
}

WIDE static void
mask_wide(const uint8_t *src, const uint8_t *value, uint8_t *out, size_t len)
{
	mask(src, value, out, len);
}

bool
granule_all_zero(const uint8_t *p, size_t len)
{
	/* almost every range that is not zero shows it in its first bytes */
	if (len >= GRANULE_LEN && load64(p) != 0)
		return false;
	return HAVE_WIDE() ? all_zero_wide(p, len) : all_zero(p, len);
}

bool
granule_find_zero(const uint8_t *p, size_t len, uint64_t map[static GRANULE_MAP_WORDS])
{
	return HAVE_WIDE() ? find_zero_wide(p, len, map) : find_zero(p, len, map, block_bits);
}

void
granule_clear(uint8_t *p, size_t len, const uint64_t map[static GRANULE_MAP_WORDS])
{
	for (; len > 0; p += BLOCK, len -= len < BLOCK ? len : BLOCK, map++)
		if (len >= BLOCK && __builtin_popcountll(*map) > FEW)
			HAVE_WIDE() ? clear_block_wide(p, *map) : clear_block(p, *map);
		else
			for (uint64_t bits = *map; bits != 0; bits &= bits - 1)
				memset(p + (size_t)__builtin_ctzll(bits) * GRANULE_LEN, 0, GRANULE_LEN);
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
