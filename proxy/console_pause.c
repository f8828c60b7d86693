/*
 * console_pause: PAUSE, RESUME and WAIT_CLOSE on the console, with a node's or profile's name, EXCEPT some, or for all;
 * the words and their meaning are pgbouncer's, but that saying something twice is no error.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/session_intern.h"

/* What stands behind PAUSE, RESUME or WAIT_CLOSE. */
struct whom {
	bool except; /* all but the names; with no name: all */
	pause_name *names;
	size_t n;
};

static void
whom_free(struct whom *w)
{
	free(w->names);
	w->names = NULL;
	w->n = 0;
}

static int
whom_add(struct whom *w, const struct site *site, const char *text, size_t len, struct err *err)
{
	pause_name *names;
	pause_name name = "";

	if (len >= 2 && text[0] == '"' && text[len - 1] == '"') {
		text++;
		len -= 2;
	}
	for (size_t i = 0; i < len && i + 1 < sizeof(name); i++)
		name[i] = (char)tolower((unsigned char)text[i]);
	if (len >= sizeof(name) || site_node(site, name) == NULL) {
		err_set(err, ERR_REFUSED, "there is no node or profile \"%s\"", name);
		err_sqlstate(err, "42704");
		return err_hint(err, "SHOW NODES lists them.");
	}
	if ((names = realloc(w->names, (w->n + 1) * sizeof(*names))) == NULL)
		return err_nomem(err);
	w->names = names;
	memcpy(names[w->n++], name, sizeof(name));
	return 0;
}

/* rest: upper case, one blank between words. Without EXCEPT one name or none. */
static int
whom_parse(struct whom *w, const struct site *site, const char *rest, struct err *err)
{
	memset(w, 0, sizeof(*w));
	w->except = strncmp(rest, "EXCEPT ", 7) == 0;
	if (w->except)
		rest += 7;
	while (*rest != '\0') {
		size_t len = strcspn(rest, w->except ? ", " : " ");

		if (whom_add(w, site, rest, len, err) != 0)
			goto fail;
		rest += len;
		rest += strspn(rest, w->except ? ", " : "");
		if (*rest != '\0' && !w->except) {
			err_set(err, ERR_REFUSED, "one name is taken here");
			err_sqlstate(err, "42601");
			err_hint(err, "To leave several out: EXCEPT a, b.");
			goto fail;
		}
	}
	return 0;
fail:
	whom_free(w);
	return -1;
}

static bool
whom_has(const struct whom *w, const char *name)
{
	bool listed = false;

	for (size_t i = 0; i < w->n && !listed; i++)
		listed = strcmp(w->names[i], name) == 0;
	return w->n == 0 || listed != w->except;
}

static void
say(struct session *s)
{
	char text[512];

	pause_text(s->proxy->pause, text, sizeof(text));
	log_info("new sessions are held, as user \"%s\" says: %s", s->startup.user, text);
}

/* Sessions that are held look again, in their threads. */
static void
release(struct session *s)
{
	for (size_t i = 0; i < s->proxy->nworkers; i++)
		worker_release(s->proxy->workers[i]);
}

static void
change(struct session *s, const char *rest, bool held, const char *tag)
{
	struct pause *p = s->proxy->pause;
	struct site *site = proxy_site(s->proxy); /* of now: the session's own may be older */
	struct whom whom;
	struct err err = {0};
	int rc = whom_parse(&whom, site, rest, &err);

	site_unref(site);
	if (rc == 0 && !held && whom.except) {
		rc = err_set(&err, ERR_REFUSED, "RESUME takes a name, or none");
		err_sqlstate(&err, "42601");
	}
	if (rc == 0 && whom.n == 0 && !held)
		pause_none(p);
	else if (rc == 0)
		rc = whom.n == 0 || whom.except ? pause_all(p, whom.names, whom.n, &err)
		                                : pause_one(p, whom.names[0], held, &err);
	whom_free(&whom);
	if (rc != 0) {
		session_refuse(s, &err);
		return;
	}
	say(s);
	release(s);
	console_done(s, tag);
}

void
console_pause(struct session *s, const char *rest)
{
	change(s, rest, true, "PAUSE");
}

void
console_resume(struct session *s, const char *rest)
{
	change(s, rest, false, "RESUME");
}

/* Does one of them have an upstream, or will it have one without a RESUME? */
static bool
serves(struct registry *r, const struct whom *whom)
{
	bool found = false;

	registry_lock(r);
	for (const struct card *c = r->first; c != NULL && !found; c = c->next)
		found = c->admitted && strcmp(c->state, "held") != 0 && whom_has(whom, c->node);
	registry_unlock(r);
	return found;
}

static int
look(struct session *s, void *arg, struct err *err)
{
	(void)err;
	return serves(&s->proxy->registry, arg) ? 0 : 1;
}

static void
forget(void *arg)
{
	whom_free(arg);
	free(arg);
}

void
console_wait_close(struct session *s, const char *rest)
{
	struct whom *whom = calloc(1, sizeof(*whom));
	struct site *site = proxy_site(s->proxy);
	struct err err = {0};
	int rc = whom == NULL ? err_nomem(&err) : whom_parse(whom, site, rest, &err);

	site_unref(site);
	if (rc != 0) {
		free(whom);
		session_refuse(s, &err);
	} else
		console_wait(s, "WAIT_CLOSE", look, whom, forget);
}
