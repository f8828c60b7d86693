#include "ctl/reencrypt_work.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/reencrypt_file.h"

#define STRETCH_LEN (UINT64_C(16) << 20)
_Static_assert(STRETCH_LEN % REENCRYPT_BUFFER_LEN == 0, "whole buffers");

/* A large file that is being worked on. Under r->lock: all but the file's names and descriptors. */
struct reencrypt_large {
	struct reencrypt_file file;
	uint64_t next; /* where the next stretch begins */
	unsigned busy; /* threads in it */
	bool failed;
	struct reencrypt_large *link;
};

struct worker {
	struct reencrypt *r;
	struct reencrypt_pages pages;
	struct reencrypt_spares spares; /* of what this thread ended last */
	bool owner;                     /* it has one of the large files */
};

/* What to do next. */
struct task {
	enum { NOTHING, BEGIN_LARGE, HELP_LARGE, GROUP } kind;
	const struct reencrypt_entry *entry;
	size_t n;                      /* of a group */
	struct reencrypt_large *large; /* to help with */
	struct reencrypt_stretch stretch;
};

static bool
is_large(const struct reencrypt_entry *e)
{
	return !e->has_new && e->len > REENCRYPT_TOGETHER_BYTES;
}

/* The next stretch of a large file that nobody has, now ours. Under the lock. */
static bool
stretch_claim(struct reencrypt_large *l, struct reencrypt_stretch *s)
{
	if (l->next >= l->file.len)
		return false;
	*s = (struct reencrypt_stretch){.from = l->next, .to = l->next + STRETCH_LEN};
	if (s->to > l->file.len)
		s->to = l->file.len;
	l->next = s->to;
	l->busy++;
	return true;
}

/* Small ones up to REENCRYPT_TOGETHER_BYTES. */
static size_t
group_len(const struct reencrypt *r)
{
	uint64_t bytes = 0;
	size_t n = 0;

	for (const struct reencrypt_entry *e = &r->list.entry[r->next]; r->next + n < r->list.n && n < r->together;
	     n++, e++) {
		if (n > 0 && bytes + e->len > REENCRYPT_TOGETHER_BYTES)
			break;
		bytes += e->len;
	}
	return n;
}

/* One look at what there is; false: nothing now, but there will be. Large files come first in the list. */
static bool
task_find(struct worker *w, struct task *t)
{
	struct reencrypt *r = w->r;
	bool large = r->next < r->list.n && is_large(&r->list.entry[r->next]);

	t->entry = &r->list.entry[r->next];
	if (atomic_load(&r->stop)) {
		t->kind = NOTHING;
		return true;
	}
	if (large && r->owners < r->jobs) {
		t->kind = BEGIN_LARGE;
		w->owner = true;
		r->owners++;
		r->next++;
		return true;
	}
	for (t->large = r->large; t->large != NULL; t->large = t->large->link)
		if (stretch_claim(t->large, &t->stretch)) {
			t->kind = HELP_LARGE;
			return true;
		}
	t->kind = r->next < r->list.n ? GROUP : NOTHING;
	t->n = group_len(r);
	if (!large)
		r->next += t->n;
	return !large;
}

static void
task_take(struct worker *w, struct task *t)
{
	struct reencrypt *r = w->r;

	pthread_mutex_lock(&r->lock);
	/* not before: who has ended a large file begins the next one, which can have the old file's blocks */
	if (w->owner)
		r->owners--;
	w->owner = false;
	while (!task_find(w, t))
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

static void
damage_tell(const struct reencrypt_file *f)
{
	struct reencrypt *r = f->r;

	if (f->damage.n == 0)
		return;
	r->damaged += f->damage.n;
	pthread_mutex_lock(&r->lock);
	progress_clear(&r->progress);
	printf("%s: %" PRIu64 " pages were damaged before, the first is block %u; carried over as they are\n", f->e->path,
	       f->damage.n, f->damage.first);
	fflush(stdout);
	pthread_mutex_unlock(&r->lock);
}

static void
damage_add(struct reencrypt_damage *all, const struct reencrypt_damage *more)
{
	if (more->n > 0 && (all->n == 0 || more->first < all->first))
		all->first = more->first;
	all->n += more->n;
}

/* Their new names, made durable, those that an earlier run gave, too; one folder after another, of which there are few.
 */
static int
names_put(const struct reencrypt_file *all, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (!all[i].e->has_new && rename(all[i].tmp, all[i].new) != 0)
			return err_os(err, errno, "could not rename file \"%s\"", all[i].tmp);
	for (size_t i = 0; i < n; i++) {
		char folder[PATH_MAX];
		size_t j = 0;

		while (j < i && path_by_folder(all[j].new, all[i].new) != 0)
			j++;
		if (j < i)
			continue;
		memcpy(folder, all[i].new, sizeof(folder));
		*strrchr(folder, '/') = '\0';
		if (durable_fsync_dir(folder, err) != 0)
			return -1;
	}
	return 0;
}

/* Whole and durable under their new names: nothing needs the old ones any more, but as spares. */
static int
old_retire(struct worker *w, const struct reencrypt_file *all, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct reencrypt_file *f = &all[i];

		if (!f->e->has_new) {
			w->r->files++;
			w->r->bytes += f->len;
			damage_tell(f);
			if (reencrypt_spares_add(&w->spares, f->old, f->e->len, err) != 0)
				return -1;
		} else if (f->e->has_old && unlink(f->old) != 0 && errno != ENOENT)
			return err_os(err, errno, "could not remove file \"%s\"", f->old);
	}
	return 0;
}

/* Close them, and give them their places if all went well; else make room for who has to go on elsewhere. */
static int
files_end(struct worker *w, struct reencrypt_file *all, size_t n, int result, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		reencrypt_file_close(&all[i]);
	if (result == 0)
		result = names_put(all, n, err);
	for (size_t i = 0; result != 0 && i < n; i++)
		if (!all[i].e->has_new)
			unlink(all[i].tmp);
	return result != 0 ? -1 : old_retire(w, all, n, err);
}

static int
group_convert(struct worker *w, const struct reencrypt_entry *e, size_t n, struct err *err)
{
	struct reencrypt_file *all = calloc(n, sizeof(*all));
	struct reencrypt_stretch *s = calloc(n, sizeof(*s));
	size_t begun = 0;
	int result = 0;

	if (all == NULL || s == NULL) {
		free(all);
		free(s);
		return err_nomem(err);
	}
	for (; result == 0 && begun < n; begun++) {
		result = e[begun].has_new ? reencrypt_file_name(&all[begun], w->r, &e[begun], err)
		                          : reencrypt_file_open(&all[begun], w->r, &e[begun], &w->spares, err);
		s[begun].to = all[begun].len;
	}
	/* before anything is written, so that never more room is taken than these files have */
	if (result == 0)
		result = reencrypt_spares_drop(&w->spares, err);
	for (size_t i = 0; result == 0 && i < n; i++)
		result = reencrypt_file_convert(&all[i], &w->pages, &s[i], err);
	for (size_t i = 0; result == 0 && i < n; i++) {
		all[i].damage = s[i].damage;
		if (!e[i].has_new)
			result = reencrypt_file_settle(&all[i], &w->pages, &s[i], err);
	}
	result = files_end(w, all, begun, result, err);
	free(all);
	free(s);
	return result;
}

/* A stretch of a large file, which was claimed. */
static int
stretch_convert(struct worker *w, struct reencrypt_large *l, struct reencrypt_stretch *s, struct err *err)
{
	int result = reencrypt_file_convert(&l->file, &w->pages, s, err) != 0 ||
	                     reencrypt_file_settle(&l->file, &w->pages, s, err) != 0
	                 ? -1
	                 : 0;

	pthread_mutex_lock(&w->r->lock);
	damage_add(&l->file.damage, &s->damage);
	if (result != 0) {
		l->failed = true;
		l->next = l->file.len;
	}
	if (--l->busy == 0)
		pthread_cond_broadcast(&w->r->changed);
	pthread_mutex_unlock(&w->r->lock);
	return result;
}

static bool
stretch_next(struct reencrypt *r, struct reencrypt_large *l, struct reencrypt_stretch *s)
{
	bool is;

	pthread_mutex_lock(&r->lock);
	is = stretch_claim(l, s);
	pthread_mutex_unlock(&r->lock);
	return is;
}

/* Others see it, or do not any more: then they are out of it. */
static void
large_show(struct reencrypt *r, struct reencrypt_large *l)
{
	pthread_mutex_lock(&r->lock);
	l->link = r->large;
	r->large = l;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

static void
large_hide(struct reencrypt *r, struct reencrypt_large *l)
{
	struct reencrypt_large **at = &r->large;

	pthread_mutex_lock(&r->lock);
	while (l->busy > 0)
		pthread_cond_wait(&r->changed, &r->lock);
	while (*at != l)
		at = &(*at)->link;
	*at = l->link;
	pthread_mutex_unlock(&r->lock);
}

static int
large_convert(struct worker *w, const struct reencrypt_entry *e, struct err *err)
{
	struct reencrypt_large *l = calloc(1, sizeof(*l));
	struct reencrypt_stretch s;
	int result;

	if (l == NULL)
		return err_nomem(err);
	result = reencrypt_file_open(&l->file, w->r, e, &w->spares, err);
	if (result == 0 && (result = reencrypt_spares_drop(&w->spares, err)) == 0) {
		large_show(w->r, l);
		while (result == 0 && stretch_next(w->r, l, &s))
			result = stretch_convert(w, l, &s, err);
		large_hide(w->r, l);
		if (result == 0 && l->failed)
			result = err_set(err, ERR_MIDWAY, "stopped");
	}
	result = files_end(w, &l->file, 1, result, err);
	free(l);
	return result;
}

static int
task_do(struct worker *w, struct task *t, struct err *err)
{
	switch (t->kind) {
	case BEGIN_LARGE:
		return large_convert(w, t->entry, err);
	case HELP_LARGE:
		return stretch_convert(w, t->large, &t->stretch, err);
	case GROUP:
		return group_convert(w, t->entry, t->n, err);
	case NOTHING:
		break;
	}
	return 0;
}

/* The last of its old files, and its large file's place. */
static int
worker_end(struct worker *w, struct err *err)
{
	int result = reencrypt_spares_drop(&w->spares, err);

	reencrypt_spares_free(&w->spares);
	reencrypt_pages_free(&w->pages);
	pthread_mutex_lock(&w->r->lock);
	w->r->owners -= w->owner ? 1 : 0;
	pthread_cond_broadcast(&w->r->changed);
	pthread_mutex_unlock(&w->r->lock);
	return result;
}

int
reencrypt_work(void *arg, struct err *err)
{
	struct worker w = {.r = arg};
	int result = reencrypt_pages_init(&w.pages, w.r, err);
	struct task t = {.kind = GROUP};
	struct err ignored;

	while (result == 0 && t.kind != NOTHING) {
		task_take(&w, &t);
		result = task_do(&w, &t, err);
	}
	if (result != 0)
		atomic_store(&w.r->stop, true);
	if (worker_end(&w, result != 0 ? &ignored : err) != 0)
		result = -1;
	/* who was only stopped has nothing to tell */
	return result != 0 && err->class == ERR_MIDWAY ? 0 : result;
}
