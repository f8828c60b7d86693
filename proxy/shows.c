#include "proxy/shows.h"

#include <string.h>

#include "proxy/shows_intern.h"

static const struct show *const all[] = {&show_status, &show_nodes, &show_sessions, &show_standbys, &show_upstream,
                                         &show_keys,   &show_stats, &show_version,  &show_config};

const struct show *
show_at(size_t i)
{
	return i < sizeof(all) / sizeof(all[0]) ? all[i] : NULL;
}

const struct show *
show_find(const char *name)
{
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

int
show_make(const struct show *show, struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	table_init(t, show->columns);
	return show->fill(t, p, site, err) != 0 ? -1 : table_check(t, err);
}
