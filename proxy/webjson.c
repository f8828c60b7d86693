#include "proxy/webjson.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/shows.h"

/* Takes root. */
static char *
text_of(json_t *root, struct err *err)
{
	char *text = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);

	json_decref(root);
	if (text == NULL)
		err_nomem(err);
	return text;
}

/* A server's words may be in another encoding: what is no UTF-8 shows as question marks. */
static json_t *
cell_json(const char *cell)
{
	json_t *made = cell == NULL ? json_null() : json_string(cell);
	char *copy;

	if (made != NULL || (copy = strdup(cell)) == NULL)
		return made;
	for (char *p = copy; *p != '\0'; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	made = json_string(copy);
	free(copy);
	return made;
}

static json_t *
table_json(const struct table *t)
{
	json_t *list = json_array();

	for (size_t row = 0; row < table_rows(t); row++) {
		json_t *object = json_object();

		for (size_t i = 0; i < t->columns; i++)
			json_object_set_new(object, t->names[i], cell_json(table_cell(t, row, i)));
		json_array_append_new(list, object);
	}
	return list;
}

char *
webjson_status(struct proxy *p, const struct site *site, struct err *err)
{
	static const struct {
		const char *member, *show;
	} parts[] = {{"status", "STATUS"},     {"nodes", "NODES"}, {"sessions", "SESSIONS"}, {"standbys", "STANDBYS"},
	             {"upstream", "UPSTREAM"}, {"keys", "KEYS"},   {"stats", "STATS"}};
	json_t *root = json_object();

	json_object_set_new(root, "now", json_integer((json_int_t)time(NULL)));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct table t;
		int rc = show_make(show_find(parts[i].show), &t, p, site, err);

		if (rc == 0)
			json_object_set_new(root, parts[i].member, table_json(&t));
		table_free(&t);
		if (rc != 0) {
			json_decref(root);
			return NULL;
		}
	}
	return text_of(root, err);
}

char *
webjson_history(struct proxy *p, struct err *err)
{
	size_t n;
	struct standby_history *list = standbys_history(p->standbys, &n, err);
	json_t *root;

	if (list == NULL)
		return NULL;
	root = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *samples = json_array();

		for (size_t k = 0; k < list[i].n; k++) {
			const struct standby_sample *s = &list[i].samples[k];
			bool known = s->bytes >= 0;

			json_array_append_new(
			    samples,
			    json_pack("[I, o, o]", (json_int_t)s->at, known ? json_integer((json_int_t)s->bytes) : json_null(),
			              known ? json_real((double)(int64_t)(s->seconds * 1000) / 1000) : json_null()));
		}
		json_array_append_new(root, json_pack("{s:s, s:s, s:o}", "node", list[i].who.node, "application_name",
		                                      list[i].who.application, "samples", samples));
	}
	free(list);
	return text_of(root, err);
}
