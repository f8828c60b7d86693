#include "walcrypt/nh.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "walcrypt/load.h"

#define PASSES 4
#define SHIFT 32 /* bytes of the key from one pass to the next */

void
nh_hash_plain(const uint8_t key[static NH_KEY_LEN], const uint8_t *blocks, size_t n, uint8_t *out)
{
	for (; n > 0; n--, blocks += NH_BLOCK, out += NH_LEN)
		for (size_t pass = 0; pass < PASSES; pass++) {
			const uint8_t *k = key + pass * SHIFT;
			uint64_t sum = 0;

			for (size_t i = 0; i < NH_BLOCK; i += 8)
				sum += (uint64_t)(uint32_t)(load32(blocks + i) + load32(k + i)) *
				       (uint32_t)(load32(blocks + i + 4) + load32(k + i + 4));
			memcpy(out + pass * sizeof(sum), &sum, sizeof(sum));
		}
}

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2")))

WIDE static inline __m256i
load(const uint8_t *p)
{
	return _mm256_loadu_si256((const void *)p);
}

/* Four products of two neighbours each, added to sum. */
WIDE static inline __m256i
step(__m256i sum, __m256i data, __m256i key)
{
	__m256i words = _mm256_add_epi32(data, key);

	return _mm256_add_epi64(sum, _mm256_mul_epu32(words, _mm256_srli_epi64(words, 32)));
}

WIDE static void
hash_wide(const uint8_t *key, const uint8_t *block, uint8_t *out)
{
	__m256i k0 = load(key), k1 = load(key + SHIFT), k2 = load(key + 2 * SHIFT);
	__m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0, a, b;

	for (size_t i = 0; i < NH_BLOCK; i += SHIFT) {
		__m256i k3 = load(key + i + 3 * SHIFT), data = load(block + i);

		s0 = step(s0, data, k0);
		s1 = step(s1, data, k1);
		s2 = step(s2, data, k2);
		s3 = step(s3, data, k3);
		k0 = k1;
		k1 = k2;
		k2 = k3;
	}
	/* the four sums of each pass together */
	a = _mm256_add_epi64(_mm256_unpacklo_epi64(s0, s1), _mm256_unpackhi_epi64(s0, s1));
	b = _mm256_add_epi64(_mm256_unpacklo_epi64(s2, s3), _mm256_unpackhi_epi64(s2, s3));
	a = _mm256_add_epi64(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
	_mm256_storeu_si256((void *)out, a);
}

WIDE static void
hash_all_wide(const uint8_t *key, const uint8_t *blocks, size_t n, uint8_t *out)
{
	for (; n > 0; n--, blocks += NH_BLOCK, out += NH_LEN)
		hash_wide(key, blocks, out);
}
#endif

void
nh_hash(const uint8_t key[static NH_KEY_LEN], const uint8_t *blocks, size_t n, uint8_t *out)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2")) {
		hash_all_wide(key, blocks, n, out);
		return;
	}
#endif
	nh_hash_plain(key, blocks, n, out);
}
