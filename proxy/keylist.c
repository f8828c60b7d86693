#include "proxy/keylist.h"

#include <stdlib.h>
#include <string.h>

#include "keymgr/keydir_text.h"

static bool
seen(const struct site *site, size_t node)
{
	for (size_t i = 0; i < node; i++)
		if (site_keys(&site->nodes[i]) != NULL &&
		    strcmp(site->nodes[i].settings->keyset, site->nodes[node].settings->keyset) == 0)
			return true;
	return false;
}

/* A keyset's relation key is made with it, and stays; its WAL keys may have come later. */
static time_t
keyset_made(const struct keydir_info *info)
{
	time_t first = -1;

	for (size_t i = 0; i < info->nepochs; i++) {
		time_t made = keydir_time(info->epochs[i].created);

		if (made >= 0 && (first < 0 || made < first))
			first = made;
	}
	return first;
}

static size_t
keyset_list(const struct site *site, size_t node, struct timelines *timelines, struct keylist_key *out)
{
	const struct site_node *n = &site->nodes[node];
	const struct site_keys *keys = site_keys(n);
	const struct keydir_info *info = &keys->info;
	struct keylist_key key = {.keyset = n->settings->keyset,
	                          .kek = n->settings->kek,
	                          .method = info->method,
	                          .state = "current",
	                          .created = -1,
	                          .node = node};
	uint32_t tli = timelines_highest(timelines, keyset_system_identifier(keys->keyset));
	const struct keyset_epoch *now = keyset_wal_write(keys->keyset, tli == 0 ? 1 : tli);
	size_t count = 0;

	out[count] = key;
	out[count].kind = "cluster";
	out[count++].id = info->kek_id;
	out[count] = key;
	out[count].kind = "relation";
	out[count].created = keyset_made(info);
	out[count++].id = info->relation_id;
	for (size_t i = 0; i < info->nepochs; i++) {
		struct keylist_key *wal = &out[count++];

		*wal = key;
		wal->kind = "wal";
		wal->id = info->epochs[i].id;
		wal->epoch = info->epochs[i].number;
		wal->after_timeline = info->epochs[i].after_timeline;
		wal->created = keydir_time(info->epochs[i].created);
		if (now != NULL && wal->epoch != now->number)
			wal->state = wal->epoch < now->number ? "old" : "next";
	}
	return count;
}

struct keylist_key *
keylist_make(const struct site *site, struct timelines *timelines, size_t *n, struct err *err)
{
	size_t room = 1;
	struct keylist_key *list;

	*n = 0;
	for (size_t i = 0; i < site->settings->nnodes; i++)
		room += site_keys(&site->nodes[i]) != NULL ? 2 + site_keys(&site->nodes[i])->info.nepochs : 0;
	if ((list = calloc(room, sizeof(*list))) == NULL) {
		err_nomem(err);
		return NULL;
	}
	for (size_t i = 0; i < site->settings->nnodes; i++) {
		const struct site_keys *keys = site_keys(&site->nodes[i]);

		/* some may have been made since they were counted, and find no room: they are in the next list */
		if (keys != NULL && !seen(site, i) && 2 + keys->info.nepochs <= room - *n)
			*n += keyset_list(site, i, timelines, list + *n);
	}
	return list;
}
