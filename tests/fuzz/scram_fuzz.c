/* SCRAM messages of a client: pieces between 0xFE are SASL messages; and a list of users. */
#include <stdlib.h>
#include <string.h>

#include "replication/scram.h"
#include "replication/userlist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint8_t binding[32] = {1, 2, 3};
	struct verifier v = {.iterations = 4096, .salt_len = 16};
	struct scram_conf conf = {.user = "u", .verifier = &v, .binding_len = sizeof(binding), .nonce = "nonce"};
	struct userlist *users;
	struct scram *s;
	struct buffer out;
	struct err err = {0};
	int rc = 0;

	if (len == 0)
		return 0;
	conf.binding = data[0] & 1 ? binding : NULL;
	buffer_init(&out, 1 << 16);
	if ((s = scram_new(&conf, &err)) == NULL)
		abort();
	for (const uint8_t *p = data + 1, *end = data + len; p < end && rc == 0;) {
		const uint8_t *stop = memchr(p, 0xFE, (size_t)(end - p));
		size_t n = stop != NULL ? (size_t)(stop - p) : (size_t)(end - p);
		uint8_t *exact = malloc(n > 0 ? n : 1);

		if (exact == NULL)
			abort();
		memcpy(exact, p, n);
		rc = scram_push(s, exact, n, &out, &err);
		/* nobody knows the password */
		if (rc == 1 || (rc == -1 && err.class == ERR_NONE))
			abort();
		free(exact);
		p += n + 1;
	}
	scram_free(s);
	buffer_free(&out);
	users = userlist_parse("list", (const char *)data, len, &err);
	userlist_free(users);
	return 0;
}
