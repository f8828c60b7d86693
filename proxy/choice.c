#include "proxy/choice.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRACE_S 1.0

struct candidate {
	struct choice *choice;
	const struct site_node *node;
	struct upstream *up;
	bool fit, over; /* over: it has answered, or never will */
};

struct choice {
	struct ev_loop *loop;
	const struct site_node *node;
	struct timelines *timelines;
	struct upstreams *upstreams;
	void (*done)(void *owner, struct upstream *u, const struct err *err);
	void *owner;
	ev_timer timer; /* the grace, and the way out of a candidate's own call */
	struct candidate *candidates;
	size_t n;
	size_t nfaults;
	struct err fault; /* the only candidate's, or of several a summary */
};

static void
candidate_fault(struct candidate *c, const struct err *err)
{
	struct choice *choice = c->choice;
	size_t used = strlen(choice->fault.detail);

	c->over = true;
	c->fit = false;
	if (choice->nfaults++ == 0 && choice->n == 1) {
		choice->fault = *err;
		return;
	}
	if (choice->nfaults == 1) {
		err_set(&choice->fault, ERR_UNREACHABLE, "there is no upstream for node \"%s\" now",
		        choice->node->settings->name);
		err_sqlstate(&choice->fault, "08001");
		used = 0;
	}
	snprintf(choice->fault.detail + used, sizeof(choice->fault.detail) - used, "%s%s%s%s", used > 0 ? " " : "",
	         err->text, err->detail[0] != '\0' ? ": " : ".", err->detail);
}

int
choice_check_cluster(const struct upstream *up, const struct site_node *node, struct err *err)
{
	const struct keyset *keyset = site_keyset(node);
	uint64_t is = upstream_facts(up)->system_identifier, want;

	if (keyset == NULL || is == (want = keyset_system_identifier(keyset)))
		return 0;
	err_set(err, ERR_REFUSED, "upstream \"%s\" belongs to another cluster than keyset \"%s\"", upstream_name(up),
	        node->settings->keyset);
	err_sqlstate(err, "22023");
	err_detail(err, "Its system identifier is %" PRIu64 ", the keyset's is %" PRIu64 ".", is, want);
	return err_hint(err, "Each cluster needs its own keysets: walcrypt-ctl key init.");
}

/* Is this one of the node's cluster, and a primary, or the one that the node names? */
static int
candidate_check(struct candidate *c, struct err *err)
{
	if (site_lacks_keys(c->node)) {
		err_set(err, ERR_REFUSED, "node \"%s\" has no keys yet, so what it sends cannot be read",
		        c->node->settings->name);
		err_sqlstate(err, "55000");
		return err_hint(err, "If keyset \"%s\" has been made by another program since, RELOAD.",
		                c->node->settings->keyset);
	}
	if (choice_check_cluster(c->up, c->choice->node, err) != 0 || choice_check_cluster(c->up, c->node, err) != 0)
		return -1;
	if (upstream_facts(c->up)->standby && c->choice->node->settings->upstream == NULL) {
		err_set(err, ERR_REFUSED, "upstream \"%s\" is a standby", c->node->settings->name);
		err_sqlstate(err, "55000");
		return err_hint(err, "To stream from a standby, name it: upstream = %s in the section of \"%s\".",
		                c->node->settings->name, c->choice->node->settings->name);
	}
	return 0;
}

static void
look(struct choice *choice)
{
	bool fit = false, over = true;

	for (size_t i = 0; i < choice->n; i++) {
		const struct candidate *c = &choice->candidates[i];

		fit = fit || c->fit;
		over = over && c->over;
	}
	if (over) {
		ev_timer_stop(choice->loop, &choice->timer);
		ev_timer_set(&choice->timer, 0., 0.);
		ev_timer_start(choice->loop, &choice->timer);
	} else if (fit && !ev_is_active(&choice->timer)) {
		ev_timer_set(&choice->timer, GRACE_S, 0.);
		ev_timer_start(choice->loop, &choice->timer);
	}
}

static void
on_ready(void *owner)
{
	struct candidate *c = owner;
	struct err err = {0};

	c->over = c->fit = true;
	upstreams_reached(c->choice->upstreams, c->node->settings->name, upstream_facts(c->up));
	if (candidate_check(c, &err) != 0) {
		candidate_fault(c, &err);
		upstream_close(c->up);
	}
	look(c->choice);
}

static void
on_failed(void *owner, const struct err *err)
{
	struct candidate *c = owner;

	upstreams_failed(c->choice->upstreams, c->node->settings->name, err);
	candidate_fault(c, err);
	look(c->choice);
}

static void
on_result(void *owner, PGresult *res)
{
	(void)owner;
	PQclear(res);
}

static int
on_copy(void *owner, uint8_t *data, size_t len)
{
	(void)owner;
	(void)data;
	(void)len;
	return 0;
}

static void
on_copy_end(void *owner, bool waits, const PGresult *first)
{
	(void)owner;
	(void)waits;
	(void)first;
}

static void
on_flushed(void *owner)
{
	(void)owner;
}

static void
on_notice(void *owner, const PGresult *res)
{
	(void)owner;
	(void)res;
}

static const struct upstream_handler handler = {on_ready,    on_failed,  on_result, on_copy,
                                                on_copy_end, on_flushed, on_notice};

/* A primary that is asked for under its own name, as for a base backup of it. */
static void
hint_itself(const struct choice *choice, struct err *err)
{
	const char *name = choice->node->settings->name;
	struct upstream_view own;

	upstreams_look(choice->upstreams, name, &own);
	if (err->hint[0] != '\0' || own.facts.version == 0 || own.facts.standby || own.useless)
		return;
	err_hint(err,
	         "\"%s\" was the primary when it was asked last, and no node is its own upstream: take a backup of it as "
	         "another node or as a profile.",
	         name);
}

/* Of those that fit, the one on the highest timeline; NULL with err set when none may be taken. */
static struct candidate *
best(struct choice *choice, struct err *err)
{
	struct candidate *found = NULL;

	for (size_t i = 0; i < choice->n; i++) {
		struct candidate *c = &choice->candidates[i];
		const struct upstream_facts *f, *g;

		if (!c->fit)
			continue;
		if (found == NULL) {
			found = c;
			continue;
		}
		f = upstream_facts(c->up);
		g = upstream_facts(found->up);
		if (f->system_identifier != g->system_identifier || f->tli == g->tli) {
			err_set(err, ERR_REFUSED, "nodes \"%s\" and \"%s\" are both primaries", found->node->settings->name,
			        c->node->settings->name);
			err_sqlstate(err, "55000");
			if (f->system_identifier != g->system_identifier)
				err_detail(err,
				           "They are of two clusters, and node \"%s\" has no keys, so nothing says which is meant.",
				           choice->node->settings->name);
			else
				err_detail(err, "Both are on timeline %" PRIu32 ".", f->tli);
			err_hint(err, "Stop one of them, or take its conninfo out of the configuration.");
			return NULL;
		}
		if (f->tli > g->tli)
			found = c;
	}
	if (found == NULL) {
		*err = choice->fault;
		hint_itself(choice, err);
	}
	return found;
}

static int
timeline_check(struct choice *choice, const struct candidate *c, struct err *err)
{
	const struct upstream_facts *f = upstream_facts(c->up);
	uint32_t highest = timelines_highest(choice->timelines, f->system_identifier);

	/* a standby makes no timeline: it may be behind, and is followed where it goes */
	if (f->standby)
		return 0;
	if (f->tli >= highest)
		return f->tli == highest ? 0 : timelines_raise(choice->timelines, f->system_identifier, f->tli, err);
	err_set(err, ERR_REFUSED,
	        "node \"%s\" is a primary on timeline %" PRIu32 ", but timeline %" PRIu32 " has been seen",
	        c->node->settings->name, f->tli, highest);
	err_sqlstate(err, "55000");
	return err_hint(err,
	                "It is an old primary: a standby has been promoted since. Give the new primary's node a conninfo.");
}

static void
on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct choice *choice = w->data;
	struct err err = {0};
	struct candidate *c = best(choice, &err);
	struct upstream *up = NULL;

	(void)loop;
	(void)revents;
	if (c != NULL && timeline_check(choice, c, &err) == 0) {
		up = c->up;
		c->up = NULL;
	} else if (c != NULL)
		upstreams_failed(choice->upstreams, c->node->settings->name, &err);
	/* the choice may be gone after this */
	choice->done(choice->owner, up, up == NULL ? &err : NULL);
}

static int
candidate_begin(struct candidate *c, const struct choice_conf *conf)
{
	struct upstream_conf up = {.name = c->node->settings->name,
	                           .conninfo = c->node->settings->conninfo,
	                           .application_name = conf->application_name,
	                           .options = conf->options,
	                           .database = conf->database,
	                           .connect_timeout_ms = conf->site->settings->connect_timeout_ms,
	                           .tcp_keepalive_s = conf->site->settings->tcp_keepalive_s,
	                           .allow_plaintext = c->node->settings->allow_plaintext};
	struct err err = {0};

	c->up = upstream_new(conf->loop, &up, &handler, c, &err);
	if (c->up == NULL) {
		upstreams_failed(conf->upstreams, c->node->settings->name, &err);
		candidate_fault(c, &err);
	}
	return c->up == NULL ? -1 : 0;
}

static bool
may_be(const struct settings_node *session, const struct settings_node *upstream)
{
	return session->upstream != NULL ? strcmp(session->upstream, upstream->name) == 0
	                                 : upstream->conninfo != NULL && upstream != session;
}

struct choice *
choice_new(const struct choice_conf *conf, void (*done)(void *owner, struct upstream *u, const struct err *err),
           void *owner, struct err *err)
{
	const struct settings *settings = conf->site->settings;
	struct choice *choice = calloc(1, sizeof(*choice));

	if (choice == NULL || (choice->candidates = calloc(settings->nnodes + 1, sizeof(*choice->candidates))) == NULL) {
		err_nomem(err);
		free(choice);
		return NULL;
	}
	choice->loop = conf->loop;
	choice->node = conf->node;
	choice->timelines = conf->timelines;
	choice->upstreams = conf->upstreams;
	choice->done = done;
	choice->owner = owner;
	ev_timer_init(&choice->timer, on_timer, 0., 0.);
	choice->timer.data = choice;
	for (size_t i = 0; i < settings->nnodes; i++)
		if (may_be(conf->node->settings, &settings->nodes[i])) {
			struct candidate *c = &choice->candidates[choice->n++];

			c->choice = choice;
			c->node = &conf->site->nodes[i];
		}
	if (choice->n == 0) {
		err_set(err, ERR_REFUSED, "there is no upstream for node \"%s\"", conf->node->settings->name);
		err_sqlstate(err, "08001");
		err_hint(err, "The configuration needs a [node ...] with a conninfo, other than this one.");
		choice_free(choice);
		return NULL;
	}
	for (size_t i = 0; i < choice->n; i++)
		if (candidate_begin(&choice->candidates[i], conf) != 0)
			look(choice);
	return choice;
}

void
choice_free(struct choice *c)
{
	if (c == NULL)
		return;
	ev_timer_stop(c->loop, &c->timer);
	for (size_t i = 0; i < c->n; i++)
		upstream_free(c->candidates[i].up);
	free(c->candidates);
	free(c);
}
