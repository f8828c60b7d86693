/* Randomness: any length, never the same twice, not in a forked child either. */
#include "walcrypt/random.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/tap.h"

/* How often this thread's generator of secrets was seeded. */
static unsigned
seeded(void)
{
	unsigned n = 0;
	OSSL_PARAM params[] = {OSSL_PARAM_construct_uint(OSSL_DRBG_PARAM_RESEED_COUNTER, &n), OSSL_PARAM_construct_end()};

	return EVP_RAND_CTX_get_params(RAND_get0_private(NULL), params) == 1 ? n : 0;
}

/* What is stirred in reaches the generator that keys come from, and adds to what is there. */
static void
test_stir(void)
{
	static const uint8_t extra[32];
	uint8_t a[32], b[32];
	struct err err = {0};
	unsigned before;

	random_bytes(a, 32, &err);
	before = seeded();
	random_bytes(a, 32, &err);
	ok(before > 0 && seeded() == before, "not seeded in between");
	is_int(random_stir(extra, sizeof(extra), &err), 0, "stirred");
	random_bytes(a, 32, &err);
	ok(seeded() == before + 1, "seeded anew once");
	is_int(random_stir(extra, sizeof(extra), &err), 0, "stirred with the same");
	random_bytes(b, 32, &err);
	ok(seeded() == before + 2 && memcmp(a, b, 32) != 0, "something else comes out");
}

int
main(void)
{
	static uint8_t big[200001];
	uint8_t a[32], b[32];
	struct err err = {0};
	size_t ones = 0;
	int fd[2];
	pid_t pid;

	ok(random_bytes(a, 32, &err) == 0 && random_bytes(b, 32, &err) == 0 && memcmp(a, b, 32) != 0, "twice, different");
	ok(random_bytes(big, sizeof(big) - 1, &err) == 0, "many");
	for (size_t i = 0; i < sizeof(big) - 1; i++)
		ones += (size_t)__builtin_popcount(big[i]);
	ok(ones > 795000 && ones < 805000 && big[sizeof(big) - 1] == 0, "half of the bits: %zu of 1600000", ones);
	ok(random_bytes(a, 0, &err) == 0, "none");
	test_stir();
	if (pipe(fd) != 0 || (pid = fork()) < 0)
		return 1;
	if (pid == 0)
		_exit(random_bytes(a, 32, &err) != 0 || write(fd[1], a, 32) != 32);
	random_bytes(b, 32, &err);
	ok(read(fd[0], a, 32) == 32 && memcmp(a, b, 32) != 0, "a forked child goes its own way");
	waitpid(pid, NULL, 0);
	return tap_done();
}
