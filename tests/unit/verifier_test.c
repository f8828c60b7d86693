/* Base64, verifiers and lists of them: each form, each malformation, and mocks. */
#include "walcrypt/verifier.h"

#include <stdlib.h>

#include "replication/userlist.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"
#include "walcrypt/base64.h"

#define SALT "W22ZaJ0SNY7soEsUEjb6gQ=="
#define STORED "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
#define SERVER "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
#define VERIFIER "SCRAM-SHA-256$4096:" SALT "$" STORED ":" SERVER

static void
base64(void)
{
	/* RFC 4648 section 10 */
	static const char *const rows[][2] = {{"", ""},
	                                      {"f", "Zg=="},
	                                      {"fo", "Zm8="},
	                                      {"foo", "Zm9v"},
	                                      {"foob", "Zm9vYg=="},
	                                      {"fooba", "Zm9vYmE="},
	                                      {"foobar", "Zm9vYmFy"}};
	static const char *const bad[] = {
	    "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 8", "Zm8\n", "Zm-_", "=m9v", "Zg=a"};
	uint8_t out[16];
	char text[32];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		base64_encode((const uint8_t *)rows[i][0], strlen(rows[i][0]), text);
		is_str(text, rows[i][1], "\"%s\" encoded", rows[i][0]);
		is_int(base64_decode(rows[i][1], strlen(rows[i][1]), out, sizeof(out)), strlen(rows[i][0]), "and decoded");
		is_mem(out, rows[i][0], strlen(rows[i][0]), "to the same");
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		is_int(base64_decode(bad[i], strlen(bad[i]), out, sizeof(out)), -1, "no base64: row %zu", i);
	is_int(base64_decode("Zm9vYmFy", 8, out, 5), -1, "no room for all of it");
	is_int(base64_decode("Zm9vYmFy", 8, out, 6), 6, "room for just that");
}

static void
texts(void)
{
	static const char *const bad[] = {
	    "",
	    "secret",
	    "md53175bce1d3201d16594cebf9d7eb3f9d",
	    "SCRAM-SHA-1$4096:" SALT "$" STORED ":" SERVER,
	    "SCRAM-SHA-256$0:" SALT "$" STORED ":" SERVER,
	    "SCRAM-SHA-256$-1:" SALT "$" STORED ":" SERVER,
	    "SCRAM-SHA-256$ 1:" SALT "$" STORED ":" SERVER,
	    "SCRAM-SHA-256$99999999999:" SALT "$" STORED ":" SERVER,
	    "SCRAM-SHA-256$4096:$" STORED ":" SERVER,
	    "SCRAM-SHA-256$4096:" SALT "$" STORED,
	    "SCRAM-SHA-256$4096:" SALT "$" STORED ":",
	    "SCRAM-SHA-256$4096:" SALT "$" SALT ":" SERVER,
	    "SCRAM-SHA-256$4096:" SALT "$" STORED ":" SALT,
	    "SCRAM-SHA-256$4096:" SALT "$" STORED ":" SERVER ":",
	    "SCRAM-SHA-256$4096:" SALT "$" STORED ":" SERVER " ",
	    "SCRAM-SHA-256$4096:!" SALT "$" STORED ":" SERVER,
	};
	static const struct verifier nothing;
	struct verifier v;
	struct err err = {0};

	ok(verifier_parse(VERIFIER, &v, &err) == 0, "a verifier");
	is_int(v.iterations, 4096, "its iterations");
	is_int(v.salt_len, 16, "its salt");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		is_int(verifier_parse(bad[i], &v, &err), -1, "no verifier: \"%s\"", bad[i]);
		ok(memcmp(&v, &nothing, sizeof(v)) == 0 && strstr(err.text, "secret") == NULL, "nothing of it is left");
	}
}

static void
mocks(void)
{
	uint8_t secret[VERIFIER_SECRET_LEN] = {1}, other[VERIFIER_SECRET_LEN] = {2};
	struct verifier like = {.iterations = 100000, .salt_len = 100}, a, b;
	struct err err = {0};

	ok(verifier_mock("nobody", secret, NULL, &a, &err) == 0 && verifier_mock("nobody", secret, NULL, &b, &err) == 0 &&
	       memcmp(&a, &b, sizeof(a)) == 0,
	   "a mock is the same each time");
	is_int(a.iterations, 4096, "PostgreSQL's iterations");
	is_int(a.salt_len, 16, "and salt");
	verifier_mock("nobody2", secret, NULL, &b, &err);
	ok(memcmp(a.salt, b.salt, 16) != 0, "another user's differs");
	verifier_mock("nobody", other, NULL, &b, &err);
	ok(memcmp(a.salt, b.salt, 16) != 0, "and so does that of another secret");
	verifier_mock("nobody", secret, &like, &b, &err);
	is_int(b.iterations, 100000, "it looks like the real ones");
	is_int(b.salt_len, 100, "with their salt's length");
	ok(memcmp(b.salt, b.salt + 32, 32) != 0 && b.salt[99] + b.salt[98] + b.salt[97] != 0, "that is all random");
}

static const char list[] =
    "; users\n\"blue\" \"" VERIFIER "\"\n\n  # more\n\"a \"\"b\"\"\"\t\"" VERIFIER "\" \r\n\"last\" \"" VERIFIER "\"";

static int
list_again(void *arg)
{
	struct err err = {0};
	struct userlist *u = userlist_parse("list", list, sizeof(list) - 1, &err);

	(void)arg;
	if (u == NULL)
		return err.class == ERR_NONE ? 1 : -1;
	userlist_free(u);
	return 0;
}

static void
lists(void)
{
	static const struct {
		const char *text, *says;
	} bad[] = {{"blue \"" VERIFIER "\"", "list:1: not a name"},
	           {"\"blue\" \"" VERIFIER, "list:1: not a name"},
	           {"\"blue\"", "list:1: not a name"},
	           {"\"blue\" \"" VERIFIER "\" x", "list:1: not a name"},
	           {"\n\"\" \"" VERIFIER "\"", "list:2: a name has"},
	           {"\"blue\" \"opensesame\"", "list:1: not a SCRAM-SHA-256 verifier"},
	           {"\"blue\" \"md53175bce1d3201d16594cebf9d7eb3f9d\"", "list:1: not a SCRAM-SHA-256 verifier"},
	           {"\"b\" \"" VERIFIER "\"\n\"b\" \"" VERIFIER "\"", "list:2: user \"b\" is there already"}};
	struct err err = {0};
	struct userlist *u = userlist_parse("list", list, sizeof(list) - 1, &err);

	if (ok(u != NULL, "a list")) {
		is_int(userlist_len(u), 3, "of three");
		ok(userlist_find(u, "blue") != NULL && userlist_find(u, "a \"b\"") != NULL && userlist_find(u, "last") != NULL,
		   "each is found");
		ok(userlist_find(u, "BLUE") == NULL && userlist_find(u, "blu") == NULL && userlist_find(u, "") == NULL,
		   "nobody else");
	}
	userlist_free(u);
	u = userlist_parse("list", "", 0, &err);
	ok(u != NULL && userlist_any(u) == NULL, "an empty list");
	userlist_free(u);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&err, 0, sizeof(err));
		ok(userlist_parse("list", bad[i].text, strlen(bad[i].text), &err) == NULL, "no list: row %zu", i);
		is_err(&err, ERR_USAGE, bad[i].says, "with its line");
		ok(strstr(err.text, "opensesame") == NULL && strstr(err.detail, "opensesame") == NULL, "without the secret");
	}
	ok(failmalloc_each(list_again, NULL) >= 2, "each failing allocation ends it cleanly");
}

int
main(void)
{
	base64();
	texts();
	mocks();
	lists();
	return tap_done();
}
