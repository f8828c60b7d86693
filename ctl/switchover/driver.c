/* driver: the states in their order, each written down when it is reached; on, again, or back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/path.h"
#include "ctl/console.h"
#include "ctl/switchover/report.h"
#include "ctl/switchover/switchover.h"

#define WAIT_NS 5000000
#define PROXY_AGAIN_NS 50000000
#define PROXY_AWAY_MS 5000
#define LOOK_S 2
#define TELL_S 2

PGresult *
switchover_console(struct switchover *s, const char *query, struct err *err)
{
	const struct console_where where = {.admin = true};
	bool known = s->console != NULL;
	int64_t lost_ms = 0;

	/* a proxy that is started again is as good as before */
	for (;;) {
		if (s->console == NULL && (s->console = console_open(&where, s->settings, err)) == NULL) {
			if (!known)
				return NULL;
		} else {
			PGresult *r = console_ask(s->console, query, err);

			if (r != NULL || err->class != ERR_UNREACHABLE)
				return r;
			PQfinish(s->console);
			s->console = NULL;
			known = true;
		}
		if (lost_ms == 0)
			lost_ms = clock_now_ms();
		if (clock_now_ms() - lost_ms > PROXY_AWAY_MS)
			return NULL;
		nanosleep(&(struct timespec){.tv_nsec = PROXY_AGAIN_NS}, NULL);
	}
}

int
switchover_wait(struct switchover *s, const char *what, int (*ready)(struct switchover *s, struct err *err),
                struct err *err)
{
	int64_t begun_ms = clock_now_ms();
	double tell = TELL_S;
	int is;

	s->waits[0] = '\0';
	s->gave_up = false;
	while ((is = ready(s, err)) == 0) {
		double waited = (double)(clock_now_ms() - begun_ms) / 1000;

		if (waited > s->options->timeout_s) {
			s->gave_up = true;
			err_set(err, ERR_FAILED, "%s did not happen within %d s", what, s->options->timeout_s);
			return s->waits[0] != '\0' ? err_detail(err, "\"%s\": %s.", s->log.to, s->waits) : -1;
		}
		if (s->waits[0] != '\0' && waited > tell) {
			printf("  wait  for %s: %s (%.0f s of %d)\n", what, s->waits, waited, s->options->timeout_s);
			fflush(stdout);
			tell += TELL_S;
		}
		nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
	}
	return is < 0 ? -1 : 0;
}

/* The nodes that the logbook names. */
static int
nodes_recall(struct switchover *s, struct err *err)
{
	s->from_set = settings_node(s->settings, s->log.from);
	s->to_set = settings_node(s->settings, s->log.to);
	if (s->from_set == NULL || s->to_set == NULL) {
		err_set(err, ERR_USAGE, "\"%s\" has no [node %s]", s->settings->file,
		        s->from_set == NULL ? s->log.from : s->log.to);
		return err_hint(err, "The switchover that was begun is from \"%s\" to \"%s\".", s->log.from, s->log.to);
	}
	s->from = (struct node){.set = s->from_set, .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
	s->to = (struct node){.set = s->to_set, .connect_timeout_s = s->from.connect_timeout_s};
	s->from_control = (struct control){s->settings, s->from_set, s->options->timeout_s};
	s->to_control = (struct control){s->settings, s->to_set, s->options->timeout_s};
	return 0;
}

/* A picture has something before and something after; while nobody can write nobody waits for it. */
static int
look_begin(struct switchover *s, struct err *err)
{
	bool anew = s->log.state == SWITCH_PLANNED;

	if (s->log.report[0] == '\0')
		return 0;
	if (s->log.state >= SWITCH_FOLLOWED)
		return samples_load(&s->samples, s->settings->keystore, err);
	if ((s->sampler = sampler_start(s->settings, s->from_set, s->to_set, anew, err)) == NULL)
		return -1;
	if (anew)
		nanosleep(&(struct timespec){.tv_sec = LOOK_S}, NULL);
	return 0;
}

static void
look_end(struct switchover *s)
{
	if (s->sampler == NULL)
		return;
	nanosleep(&(struct timespec){.tv_sec = LOOK_S}, NULL);
	s->samples = sampler_stop(s->sampler);
	s->sampler = NULL;
	s->log.pause_begin = s->samples.last_old;
	s->log.pause_end = s->samples.first_new;
}

/* It is over: what it has left in the keystore is put aside. */
static int
finish(struct switchover *s, struct err *err)
{
	return samples_remove(s->settings->keystore, err) != 0 ? -1 : logbook_finish(&s->log, err);
}

static int
back(struct switchover *s, struct err *err)
{
	struct logbook *l = &s->log;

	if ((l->state != SWITCH_ABORTING && logbook_move(l, SWITCH_ABORTING, err) != 0) || step_undo(s, err) != 0 ||
	    logbook_move(l, SWITCH_ABORTED, err) != 0) {
		err->class = ERR_MIDWAY;
		return err->hint[0] != '\0' ? -1 : err_hint(err, "Try again: walcrypt-ctl switchover --abort");
	}
	printf("Everything is as before%s%s%s.\n", l->kind == SWITCH_FAILOVER ? "" : ": \"",
	       l->kind == SWITCH_FAILOVER ? "" : l->from, l->kind == SWITCH_FAILOVER ? "" : "\" is the primary");
	return finish(s, err);
}

/* The standby does not come up to the old primary: clients are not kept waiting for an operator, who could only put
 * everything back. */
static int
give_up(struct switchover *s, struct err *err)
{
	struct err why = *err;

	printf("  note  given up: %s\n", why.text);
	fflush(stdout);
	if (back(s, err) != 0)
		return -1;
	*err = why;
	err_context(err, "given up, and everything put back");
	return err_hint(err, "Begin again when \"%s\" keeps up, or give --timeout more.", s->log.to);
}

/* Not at its end, and not back: the operator says where to. */
static int
midway(const struct logbook *l, struct err *err)
{
	err->class = ERR_MIDWAY;
	if (err->hint[0] != '\0')
		return -1;
	return err_hint(err, l->state < SWITCH_PROMOTING
	                         ? "Nothing is promoted. Go on with walcrypt-ctl switchover --resume, "
	                           "or put everything back with --abort."
	                         : "Go on with walcrypt-ctl switchover --resume.");
}

/* From the state that is reached to the end. */
static int
go_on(struct switchover *s, struct err *err)
{
	struct logbook *l = &s->log;

	if (look_begin(s, err) != 0)
		return midway(l, err);
	while (l->state != SWITCH_DONE) {
		enum switch_state next = (enum switch_state)(l->state + 1);
		double begun = switch_now();
		const char *title;

		s->gave_up = false;
		if (step_run(s, next, err) != 0 || logbook_move(l, next, err) != 0) {
			if (s->gave_up && (next == SWITCH_STOPPED || next == SWITCH_PROVEN))
				return give_up(s, err);
			return midway(l, err);
		}
		if ((title = step_title(s, l->kind, next)) != NULL)
			printf("  %7.3f s  %s\n", switch_now() - begun, title);
		fflush(stdout);
		if (next == SWITCH_FOLLOWED)
			look_end(s);
	}
	look_end(s);
	report_text(l, stdout);
	if ((l->report[0] != '\0' && report_files(l->report, l, &s->samples, err) != 0) || finish(s, err) != 0)
		return midway(l, err);
	return 0;
}

/* Where the report goes, for who resumes it, too. When it is written there is no way back, so the place is looked at
 * now. */
static int
report_note(struct switchover *s, struct err *err)
{
	char folder[PATH_MAX];

	if (s->options->report == NULL)
		return 0;
	if (path_absolute(s->log.report, s->options->report, err) != 0 ||
	    path_format(folder, err, "%s", s->log.report) != 0)
		return -1;
	strrchr(folder, '/')[1] = '\0';
	return access(folder, W_OK | X_OK) == 0 ? 0 : err_os(err, errno, "could not write a report into \"%s\"", folder);
}

int
switchover_run(struct switchover *s, bool dry_run, struct err *err)
{
	struct logbook *l = &s->log;
	int there;

	if (logbook_open(l, s->settings->keystore, err) != 0 || (there = logbook_read(l, err)) < 0)
		return -1;
	if (there == 1 && !(s->options->kind == SWITCH_FAILOVER && failover_takes_over(l))) {
		err_set(err, ERR_MIDWAY, "a %s from \"%s\" to \"%s\" was stopped midway, in state \"%s\"",
		        switch_kind_name(l->kind), l->from, l->to, switch_state_name(l->state));
		return err_hint(err, l->state < SWITCH_PROMOTING ? "Give --resume, or --abort to put everything back."
		                                                 : "Give --resume.");
	}
	if (report_note(s, err) != 0)
		return -1;
	if (s->options->kind == SWITCH_ROTATE && (dry_run ? rotate_plan(s, err) : rotate_prepare(s, err)) != 0)
		return -1;
	if ((s->options->kind == SWITCH_FAILOVER ? failover_plan(s, err) : preflight_run(s, err)) != 0)
		return -1;
	if (dry_run) {
		preflight_plan(s);
		return 0;
	}
	return logbook_begin(l, err) != 0 ? -1 : go_on(s, err);
}

/* The logbook of what was begun. */
static int
recall(struct switchover *s, struct err *err)
{
	int there;

	if (logbook_open(&s->log, s->settings->keystore, err) != 0 || (there = logbook_read(&s->log, err)) < 0)
		return -1;
	if (there == 0)
		return err_set(err, ERR_REFUSED, "there is no switchover that was stopped midway");
	return nodes_recall(s, err);
}

int
switchover_resume(struct switchover *s, struct err *err)
{
	if (recall(s, err) != 0)
		return -1;
	if (s->log.state == SWITCH_ABORTED || s->log.state == SWITCH_DONE) /* only putting it aside is left */
		return finish(s, err);
	if (s->log.state == SWITCH_ABORTING)
		return back(s, err);
	printf("Going on from \"%s\" to \"%s\", state \"%s\":\n", s->log.from, s->log.to, switch_state_name(s->log.state));
	if (report_note(s, err) != 0)
		return -1;
	if ((s->log.state == SWITCH_PROVEN || s->log.state == SWITCH_PROMOTING) && proof_still_holds(s, err) != 0)
		return midway(&s->log, err);
	/* a proxy that was started again holds nobody */
	if (s->log.hold && s->log.state >= SWITCH_HELD && s->log.state < SWITCH_RELEASED &&
	    step_run(s, SWITCH_HELD, err) != 0)
		return midway(&s->log, err);
	return go_on(s, err);
}

int
switchover_abort(struct switchover *s, struct err *err)
{
	struct node_facts facts;
	struct err ignored;

	if (recall(s, err) != 0)
		return -1;
	if (s->log.state == SWITCH_ABORTED || s->log.state == SWITCH_DONE)
		return finish(s, err);
	if (s->log.state > SWITCH_PROMOTING && s->log.state != SWITCH_ABORTING) {
		err_set(err, ERR_REFUSED, "\"%s\" is promoted: there is no way back", s->log.to);
		return err_hint(err, "Go on with --resume; \"%s\" can become the primary again by another switchover.",
		                s->log.from);
	}
	if (node_facts(&s->to, &facts, &ignored) == 0 && !facts.recovery) {
		err_set(err, ERR_REFUSED, "\"%s\" is promoted: there is no way back", s->log.to);
		return err_hint(err, "Go on with --resume.");
	}
	if (s->log.state == SWITCH_PROMOTING && !control_still_standby(&s->to_control, s->log.tli)) {
		err_set(err, ERR_REFUSED, "\"%s\" was asked to promote itself, and may still do so", s->log.to);
		return err_hint(err,
		                "Go on with --resume; or stop it and abort then, if its data directory is on this machine.");
	}
	return back(s, err);
}
