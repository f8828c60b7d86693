#include "proxy/pause.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/locked.h"

struct pause {
	pthread_mutex_t mutex;
	bool all; /* names are the exceptions then, else those who are held */
	pause_name *names;
	size_t n;
};

struct pause *
pause_new(struct err *err)
{
	return locked_new(sizeof(struct pause), err);
}

void
pause_free(struct pause *p)
{
	if (p == NULL)
		return;
	free(p->names);
	locked_free(p);
}

/* names are taken over. */
static void
set(struct pause *p, bool all, pause_name *names, size_t n)
{
	pthread_mutex_lock(&p->mutex);
	free(p->names);
	p->all = all;
	p->names = names;
	p->n = n;
	pthread_mutex_unlock(&p->mutex);
}

int
pause_all(struct pause *p, const pause_name *except, size_t n, struct err *err)
{
	pause_name *names = NULL;

	if (n > 0) {
		if ((names = calloc(n, sizeof(*names))) == NULL)
			return err_nomem(err);
		memcpy(names, except, n * sizeof(*names));
	}
	set(p, true, names, n);
	return 0;
}

void
pause_none(struct pause *p)
{
	set(p, false, NULL, 0);
}

static size_t
find(const struct pause *p, const char *name)
{
	size_t i = 0;

	while (i < p->n && strcmp(p->names[i], name) != 0)
		i++;
	return i;
}

int
pause_one(struct pause *p, const char *name, bool held, struct err *err)
{
	pause_name *names;
	bool listed;
	size_t at;
	int rc = 0;

	pthread_mutex_lock(&p->mutex);
	at = find(p, name);
	listed = at < p->n;
	if (listed && held == p->all)
		memmove(&p->names[at], &p->names[at + 1], (--p->n - at) * sizeof(*p->names));
	else if (!listed && held != p->all) {
		if ((names = realloc(p->names, (p->n + 1) * sizeof(*names))) == NULL)
			rc = err_nomem(err);
		else {
			p->names = names;
			snprintf(names[p->n++], sizeof(*names), "%s", name);
		}
	}
	pthread_mutex_unlock(&p->mutex);
	return rc;
}

bool
pause_holds(struct pause *p, const char *name)
{
	bool listed, all;

	pthread_mutex_lock(&p->mutex);
	listed = find(p, name) < p->n;
	all = p->all;
	pthread_mutex_unlock(&p->mutex);
	return listed != all;
}

void
pause_text(struct pause *p, char *out, size_t len)
{
	size_t used;

	pthread_mutex_lock(&p->mutex);
	used = (size_t)snprintf(out, len, "%s", p->all ? p->n > 0 ? "all but " : "all" : p->n > 0 ? "" : "no");
	for (size_t i = 0; i < p->n && used < len; i++)
		used += (size_t)snprintf(out + used, len - used, "%s%s", i > 0 ? ", " : "", p->names[i]);
	pthread_mutex_unlock(&p->mutex);
}
