/* nh: both ways of calculating against the definition, and what makes it a hash. docs/formats/ledger.md */
#include "walcrypt/nh.h"

#include <string.h>

#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

#define BLOCKS 5

static uint8_t key[NH_KEY_LEN], data[1 + BLOCKS * NH_BLOCK];

static uint32_t
word(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Pass by pass, pair by pair, byte by byte. */
static void
defined(const uint8_t *block, uint8_t *out)
{
	for (int pass = 0; pass < 4; pass++) {
		uint64_t sum = 0;

		for (int pair = 0; pair < 128; pair++) {
			uint64_t a = (word(block + 8 * pair) + word(key + 8 * pair + 32 * pass)) & 0xFFFFFFFF;
			uint64_t b = (word(block + 8 * pair + 4) + word(key + 8 * pair + 4 + 32 * pass)) & 0xFFFFFFFF;

			sum += a * b;
		}
		for (int i = 0; i < 8; i++)
			out[8 * pass + i] = (uint8_t)(sum >> 8 * i);
	}
}

static void
against_definition(const char *what)
{
	uint8_t want[BLOCKS * NH_LEN], wide[BLOCKS * NH_LEN], plain[BLOCKS * NH_LEN];

	for (int i = 0; i < BLOCKS; i++)
		defined(data + 1 + i * NH_BLOCK, want + i * NH_LEN);
	nh_hash(key, data + 1, BLOCKS, wide);
	nh_hash_plain(key, data + 1, BLOCKS, plain);
	ok(memcmp(wide, want, sizeof(want)) == 0, "%s", what);
	ok(memcmp(plain, want, sizeof(want)) == 0, "%s, without wide registers", what);
}

/* One bit of a block changes the hash in each of the four passes, wherever it is. */
static void
each_bit(void)
{
	uint8_t before[NH_LEN], after[NH_LEN];
	int same = 0;

	nh_hash(key, data, 1, before);
	for (int bit = 0; bit < 8 * NH_BLOCK; bit++) {
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		nh_hash(key, data, 1, after);
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		for (int pass = 0; pass < 4; pass++)
			same += memcmp(before + 8 * pass, after + 8 * pass, 8) == 0;
	}
	is_int(same, 0, "each bit counts in each pass");
}

int
main(void)
{
	sample_noise(1, key, sizeof(key));
	sample_noise(2, data, sizeof(data));
	against_definition("noise");
	each_bit();
	memset(data, 0xFF, sizeof(data));
	against_definition("all ones");
	memset(key, 0xFF, sizeof(key));
	against_definition("all ones, also of the key");
	return tap_done();
}
