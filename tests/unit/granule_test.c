/* Zero granules against the obvious loops, at every alignment and many lengths. */
#include "walcrypt/granule.h"

#include <stdlib.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

static bool
zero(const uint8_t *p)
{
	return memcmp(p, (uint8_t[8]){0}, 8) == 0;
}

int
main(void)
{
	uint8_t area[1100], value[1100], out[1100];
	bool all = true, found = true, tail = true, cleared = true, mask = true, in_place = true;
	uint64_t seed = 3, map[GRANULE_MAP_WORDS];

	sample_noise(2, value, sizeof(value));
	for (int round = 0; round < 20000; round++) {
		size_t off, len, last = 0, zeros = 0;
		uint8_t *p;

		seed = seed * UINT64_C(6364136223846793005) + 1;
		off = (seed >> 40) % 17;
		len = (seed >> 45) % 130 * 8;
		p = area + off;
		sample_noise(seed, area, sizeof(area));
		switch (seed >> 62) {
		case 0:
			memset(p, 0, len);
			break;
		case 1:
			for (size_t i = 0; i < len; i += 8)
				if (p[i] < 60)
					memset(p + i, 0, p[i] < 30 ? 8 : 4);
			break;
		case 2:
			memset(p + len / 3, 0, len - len / 3);
			break;
		default:
			break;
		}
		for (size_t i = 0; i < len; i += 8)
			if (zero(p + i))
				zeros++;
			else
				last = i + 8;
		all &= granule_all_zero(p, len) == (zeros == len / 8);
		tail &= granule_len_without_tail(p, len) == last;
		memset(map, 0x55, sizeof(map));
		found &= granule_find_zero(p, len, map) == (zeros > 0);
		for (size_t i = 0; i < len / 8; i++)
			found &= (map[i / 64] >> i % 64 & 1) == zero(p + i * 8);
		found &= map[(len / 8 + 63) / 64] == UINT64_C(0x5555555555555555);
		memset(out, 9, sizeof(out));
		memcpy(out, value, len);
		granule_clear(out, len, map);
		for (size_t i = 0; i < len; i += 8)
			cleared &= memcmp(out + i, zero(p + i) ? (uint8_t[8]){0} : value + i, 8) == 0;
		cleared &= out[len] == 9;
		memset(out, 9, sizeof(out));
		granule_mask(p, value, out, len);
		for (size_t i = 0; i < len; i += 8)
			mask &= memcmp(out + i, zero(p + i) ? (uint8_t[8]){0} : value + i, 8) == 0;
		mask &= out[len] == 9;
		granule_mask(p, value, p, len);
		in_place &= memcmp(p, out, len) == 0;
	}
	ok(all, "all zero");
	ok(tail, "length without the tail of zeros");
	ok(found, "the zero granules, and no others");
	ok(cleared, "clearing them");
	ok(mask, "masking");
	ok(in_place, "masking in place");
	return tap_done();
}
