#include "proxy/timelines.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/durable.h"

#define MAX_CLUSTERS 1024
#define FILE_MAX (MAX_CLUSTERS * 40)

struct timelines {
	pthread_mutex_t mutex;
	char *path;
	size_t n;
	struct seen {
		uint64_t system_identifier;
		uint32_t tli;
	} seen[MAX_CLUSTERS];
};

static int
parse(struct timelines *t, const char *text, struct err *err)
{
	unsigned line = 0;

	for (const char *p = text, *end; *p != '\0'; p = end) {
		struct seen *s = &t->seen[t->n];
		int used = 0;

		end = strchr(p, '\n');
		end = end == NULL ? p + strlen(p) : end + 1;
		line++;
		if (*p == '#' || *p == '\n')
			continue;
		if (t->n == MAX_CLUSTERS ||
		    sscanf(p, "%" SCNu64 " %" SCNu32 "%n", &s->system_identifier, &s->tli, &used) != 2 || p + used != end - 1 ||
		    s->tli == 0) {
			err_set(err, ERR_DAMAGED, "%s:%u: expected a system identifier and a timeline", t->path, line);
			return err_hint(err,
			                "The file says which timelines have been seen. Mend the line, or remove the file when the "
			                "configured nodes are all as they should be.");
		}
		t->n++;
	}
	return 0;
}

struct timelines *
timelines_open(const char *path, struct err *err)
{
	struct timelines *t = calloc(1, sizeof(*t));
	struct err why = {0};
	uint8_t *text = NULL;
	size_t len;

	if (t == NULL || (t->path = strdup(path)) == NULL) {
		err_nomem(err);
		free(t);
		return NULL;
	}
	pthread_mutex_init(&t->mutex, NULL);
	if ((text = durable_read(path, FILE_MAX, &len, &why)) == NULL && why.os_errno != ENOENT) {
		*err = why;
		goto fail;
	}
	if (text != NULL && parse(t, (const char *)text, err) != 0)
		goto fail;
	free(text);
	return t;
fail:
	free(text);
	timelines_free(t);
	return NULL;
}

void
timelines_free(struct timelines *t)
{
	if (t == NULL)
		return;
	pthread_mutex_destroy(&t->mutex);
	free(t->path);
	free(t);
}

static struct seen *
find(struct timelines *t, uint64_t system_identifier)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->seen[i].system_identifier == system_identifier)
			return &t->seen[i];
	return NULL;
}

uint32_t
timelines_highest(struct timelines *t, uint64_t system_identifier)
{
	struct seen *s;
	uint32_t tli;

	pthread_mutex_lock(&t->mutex);
	s = find(t, system_identifier);
	tli = s == NULL ? 0 : s->tli;
	pthread_mutex_unlock(&t->mutex);
	return tli;
}

/* Mutex held. */
static int
save(struct timelines *t, struct err *err)
{
	char *text = malloc(FILE_MAX + 256);
	size_t used;
	int rc;

	if (text == NULL)
		return err_nomem(err);
	used = (size_t)snprintf(text, FILE_MAX + 256, "# system identifier, highest timeline that a primary was seen on\n");
	for (size_t i = 0; i < t->n; i++)
		used += (size_t)snprintf(text + used, FILE_MAX + 256 - used, "%" PRIu64 " %" PRIu32 "\n",
		                         t->seen[i].system_identifier, t->seen[i].tli);
	rc = durable_write(t->path, text, used, 0600, err);
	free(text);
	return rc;
}

int
timelines_raise(struct timelines *t, uint64_t system_identifier, uint32_t tli, struct err *err)
{
	struct seen *s, before = {0};
	int rc = 0;

	pthread_mutex_lock(&t->mutex);
	if ((s = find(t, system_identifier)) == NULL && t->n < MAX_CLUSTERS) {
		s = &t->seen[t->n++];
		s->system_identifier = system_identifier;
		s->tli = 0;
	}
	if (s == NULL)
		rc = err_set(err, ERR_FAILED, "\"%s\" is full: it knows %d clusters", t->path, MAX_CLUSTERS);
	else if (s->tli < tli) {
		before = *s;
		s->tli = tli;
		if ((rc = save(t, err)) != 0)
			*s = before;
	}
	pthread_mutex_unlock(&t->mutex);
	return rc;
}
