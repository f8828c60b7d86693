/* show_keys: which keys there are, by their ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/keylist.h"
#include "proxy/shows_intern.h"

static const char *const key_columns[] = {"keyset",  "key",   "epoch", "after_timeline", "key_id", "state", "method",
                                          "created", "age_s", "kek",   "nodes",          NULL};

/* Who has this keyset. */
static void
nodes_cell(struct table *t, const struct site *site, const char *keyset)
{
	char text[512] = "";
	size_t used = 0;

	for (size_t i = 0; i < site->settings->nnodes && used < sizeof(text); i++) {
		const struct settings_node *n = &site->settings->nodes[i];

		if (n->keyset != NULL && strcmp(n->keyset, keyset) == 0)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", used > 0 ? ", " : "", n->name);
	}
	table_text(t, text);
}

static int
fill_keys(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	struct keylist_key *list;
	time_t now = time(NULL);
	size_t n;

	if ((list = keylist_make(site, p->timelines, &n, err)) == NULL)
		return -1;
	for (size_t i = 0; i < n; i++) {
		const struct keylist_key *k = &list[i];
		bool made = k->created >= 0;

		table_text(t, k->keyset);
		table_text(t, k->kind);
		table_number_or_null(t, k->epoch != 0, k->epoch);
		table_number_or_null(t, k->epoch != 0, k->after_timeline);
		table_text(t, k->id);
		table_text(t, k->state);
		/* a cluster key has always 256 bits */
		table_text(t, strcmp(k->kind, "cluster") == 0 ? "AES256" : key_method_name(k->method));
		table_time(t, made ? k->created : 0);
		table_number_or_null(t, made, (uint64_t)(now > k->created ? now - k->created : 0));
		table_text(t, k->kek);
		nodes_cell(t, site, k->keyset);
	}
	free(list);
	return 0;
}

const struct show show_keys = {"KEYS", "the keys that there are, by their ids", key_columns, fill_keys};
