/* keylist: while a list is made the keys of a node with keyset = auto may be made by another thread. */
#include "proxy/keylist.h"

#include <stdlib.h>

#include "keymgr/keygen.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"

static unsigned asked, from; /* the node has its keys from this question on */

const struct site_keys *
site_keys(const struct site_node *node)
{
	return asked++ < from ? NULL : node->keys;
}

uint32_t
timelines_highest(struct timelines *t, uint64_t system_identifier)
{
	(void)t;
	(void)system_identifier;
	return 1;
}

int
main(void)
{
	struct settings_node set = {.name = (char *)"blue", .keyset = (char *)"blue", .keyset_auto = true};
	struct settings settings = {.nodes = &set, .nnodes = 1};
	struct site_keys keys = {.info = {.nepochs = 1, .epochs = {{.number = 1}}}};
	struct site_node node = {.settings = &set, .keys = &keys};
	struct site site = {.settings = &settings, .nodes = &node};
	struct err err = {0};
	bool fits = true;

	sample_secmem(1 << 20);
	ok((keys.keyset = keyset_generate(KEY_AES256, 1, &err)) != NULL, "there are keys");
	for (from = 0; from < 8; from++) {
		struct keylist_key *list;
		size_t n;

		asked = 0;
		list = keylist_make(&site, NULL, &n, &err);
		/* counted by the first question: what comes later has no room */
		fits = fits && list != NULL && n == (from == 0 ? 3 : 0);
		free(list);
	}
	ok(fits, "keys that come while a list is made are in the next one, and nothing is written behind it");
	keyset_free(keys.keyset);
	return tap_done();
}
