#include "ctl/switchover/logbook.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/json_record.h"
#include "walcrypt/pgfile.h"

#define FORMAT 1
#define FILE_NAME "switchover.json"
#define LAST_NAME "switchover.last.json"
#define LOCK_NAME "switchover.lock"

static const char *const state_names[SWITCH_STATES] = {
    "planned",  "slots",    "checkpointed", "held",     "quiet",   "fenced", "stopped",  "proven", "promoting",
    "promoted", "released", "moved",        "followed", "settled", "done",   "aborting", "aborted"};
static const char *const kind_names[] = {"switchover", "rotate", "failover"};
static const char *const old_names[] = {"stop", "clear", "reencrypt"};

const char *
switch_state_name(enum switch_state state)
{
	return state_names[state];
}

const char *
switch_kind_name(enum switch_kind kind)
{
	return kind_names[kind];
}

const char *
switch_old_name(enum switch_old old)
{
	return old_names[old];
}

static int
name_find(const char *const *names, int n, const char *text)
{
	for (int i = 0; i < n; i++)
		if (strcmp(names[i], text) == 0)
			return i;
	return -1;
}

int
switch_old_parse(const char *text, enum switch_old *old)
{
	int found = name_find(old_names, 3, text);

	if (found >= 0)
		*old = (enum switch_old)found;
	return found >= 0 ? 0 : -1;
}

#define BIT(state) (1u << (state))
static const unsigned moves[SWITCH_STATES] = {
    [SWITCH_PLANNED] = BIT(SWITCH_SLOTS) | BIT(SWITCH_ABORTING),
    [SWITCH_SLOTS] = BIT(SWITCH_CHECKPOINTED) | BIT(SWITCH_ABORTING),
    [SWITCH_CHECKPOINTED] = BIT(SWITCH_HELD) | BIT(SWITCH_ABORTING),
    [SWITCH_HELD] = BIT(SWITCH_QUIET) | BIT(SWITCH_ABORTING),
    [SWITCH_QUIET] = BIT(SWITCH_FENCED) | BIT(SWITCH_ABORTING),
    [SWITCH_FENCED] = BIT(SWITCH_STOPPED) | BIT(SWITCH_ABORTING),
    [SWITCH_STOPPED] = BIT(SWITCH_PROVEN) | BIT(SWITCH_ABORTING),
    [SWITCH_PROVEN] = BIT(SWITCH_PROMOTING) | BIT(SWITCH_ABORTING),
    /* only when the target's server is down and was not promoted: who asks must have looked */
    [SWITCH_PROMOTING] = BIT(SWITCH_PROMOTED) | BIT(SWITCH_ABORTING),
    [SWITCH_PROMOTED] = BIT(SWITCH_RELEASED),
    [SWITCH_RELEASED] = BIT(SWITCH_MOVED),
    [SWITCH_MOVED] = BIT(SWITCH_FOLLOWED),
    [SWITCH_FOLLOWED] = BIT(SWITCH_SETTLED),
    [SWITCH_SETTLED] = BIT(SWITCH_DONE),
    [SWITCH_ABORTING] = BIT(SWITCH_ABORTED),
};

bool
switch_may_move(enum switch_state from, enum switch_state to)
{
	return (moves[from] & BIT(to)) != 0;
}

double
switch_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int
logbook_open(struct logbook *l, const char *keystore, struct err *err)
{
	char path[PATH_MAX], pid[16] = "";
	ssize_t n;

	memset(l, 0, sizeof(*l));
	l->lock = -1;
	if (path_format(l->keystore, err, "%s", keystore) != 0 || path_format(path, err, "%s/" LOCK_NAME, keystore) != 0)
		return -1;
	if ((l->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
		return err_os(err, errno, "could not open \"%s\"", path);
	if (flock(l->lock, LOCK_EX | LOCK_NB) != 0) {
		n = pread(l->lock, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = '\0';
		err_set(err, ERR_REFUSED, "another switchover is running, in process %ld", strtol(pid, NULL, 10));
		close(l->lock);
		l->lock = -1;
		return err_hint(err, "Wait until it has come to its end.");
	}
	n = snprintf(pid, sizeof(pid), "%-10ld\n", (long)getpid());
	if (pwrite(l->lock, pid, (size_t)n, 0) != n)
		return err_os(err, errno, "could not write \"%s\"", path);
	return 0;
}

static json_t *
keys_json(const struct switch_keys *k)
{
	return json_pack("{s:s, s:s, s:I}", "relation", k->relation, "wal", k->wal, "epoch", (json_int_t)k->epoch);
}

static json_t *
lsn_json(uint64_t lsn)
{
	char text[LSN_TEXT_LEN];

	lsn_format(text, lsn);
	return json_string(text);
}

json_t *
logbook_json(const struct logbook *l)
{
	json_t *root, *at = json_object(), *slots = json_array();
	char identifier[24];

	snprintf(identifier, sizeof(identifier), "%" PRIu64, l->system_identifier);
	for (int i = 0; i < SWITCH_STATES; i++)
		if (l->at[i] > 0)
			json_object_set_new(at, state_names[i], json_real(l->at[i]));
	for (size_t i = 0; i < l->nslots; i++)
		json_array_append_new(slots, json_string(l->slots[i]));
	root = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o, s:o, "
	                 "s:f, s:f, s:s}",
	                 "format", FORMAT, "kind", kind_names[l->kind], "state", state_names[l->state], "old",
	                 old_names[l->old_fate], "from", l->from, "to", l->to, "system_identifier", identifier, "timeline",
	                 (json_int_t)l->tli, "new_timeline", (json_int_t)l->new_tli, "checkpoint", lsn_json(l->checkpoint),
	                 "checkpoint_end", lsn_json(l->checkpoint_end), "switch", lsn_json(l->switch_lsn), "before",
	                 keys_json(&l->before), "after", keys_json(&l->after), "hold", l->hold, "traffic", l->traffic,
	                 "fence", l->fence, "slots", slots, "at", at, "pause_begin", l->pause_begin, "pause_end",
	                 l->pause_end, "report", l->report);
	return root;
}

int
logbook_write(struct logbook *l, struct err *err)
{
	char path[PATH_MAX];

	return path_format(path, err, "%s/" FILE_NAME, l->keystore) != 0 ? -1
	                                                                 : json_record_write(path, logbook_json(l), err);
}

static bool
text_take(char *out, size_t room, const char *text)
{
	return snprintf(out, room, "%s", text) < (int)room;
}

static bool
keys_take(json_t *from, struct switch_keys *k)
{
	const char *relation, *wal;
	json_int_t epoch;

	if (json_unpack(from, "{s:s, s:s, s:I}", "relation", &relation, "wal", &wal, "epoch", &epoch) != 0)
		return false;
	k->epoch = (uint32_t)epoch;
	return text_take(k->relation, sizeof(k->relation), relation) && text_take(k->wal, sizeof(k->wal), wal);
}

static bool
logbook_parse(struct logbook *l, json_t *root)
{
	const char *kind, *state, *old, *from, *to, *identifier, *checkpoint, *end, *begin, *report;
	json_t *before, *after, *slots, *at, *one;
	json_int_t tli, new_tli;
	int format, hold, traffic, fence, k, s, o;
	struct err ignored;
	bool good = true;
	size_t i;

	if (json_unpack(root,
	                "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:o, s:o, s:b, s:b, s:b, s:o, s:o, "
	                "s:F, s:F, s:s !}",
	                "format", &format, "kind", &kind, "state", &state, "old", &old, "from", &from, "to", &to,
	                "system_identifier", &identifier, "timeline", &tli, "new_timeline", &new_tli, "checkpoint",
	                &checkpoint, "checkpoint_end", &end, "switch", &begin, "before", &before, "after", &after, "hold",
	                &hold, "traffic", &traffic, "fence", &fence, "slots", &slots, "at", &at, "pause_begin",
	                &l->pause_begin, "pause_end", &l->pause_end, "report", &report) != 0)
		return false;
	k = name_find(kind_names, 3, kind);
	s = name_find(state_names, SWITCH_STATES, state);
	o = name_find(old_names, 3, old);
	if (k < 0 || s < 0 || o < 0 || !text_take(l->from, sizeof(l->from), from) || !text_take(l->to, sizeof(l->to), to) ||
	    !text_take(l->report, sizeof(l->report), report) || lsn_parse(checkpoint, &l->checkpoint) != 0 ||
	    lsn_parse(end, &l->checkpoint_end) != 0 || lsn_parse(begin, &l->switch_lsn) != 0 ||
	    !keys_take(before, &l->before) || !keys_take(after, &l->after))
		return false;
	l->kind = (enum switch_kind)k;
	l->state = (enum switch_state)s;
	l->old_fate = (enum switch_old)o;
	l->system_identifier = strtoull(identifier, NULL, 10);
	l->tli = (uint32_t)tli;
	l->new_tli = (uint32_t)new_tli;
	l->hold = hold != 0;
	l->traffic = traffic != 0;
	l->fence = fence != 0;
	for (int state_at = 0; state_at < SWITCH_STATES; state_at++)
		l->at[state_at] = json_number_value(json_object_get(at, state_names[state_at]));
	json_array_foreach(slots, i, one)
	{
		good = good && json_is_string(one) && logbook_add_slot(l, json_string_value(one), &ignored) == 0;
	}
	return good;
}

int
logbook_read(struct logbook *l, struct err *err)
{
	static const char hint[] = "Look which node is the primary, and remove the file.";
	char path[PATH_MAX];
	json_t *root;
	bool good;
	int there;

	if (path_format(path, err, "%s/" FILE_NAME, l->keystore) != 0 ||
	    (there = json_record_read(path, FORMAT, hint, &root, err)) < 0)
		return -1;
	if (there == 0)
		return 0;
	good = logbook_parse(l, root);
	json_decref(root);
	return good ? 1 : json_record_damaged(path, hint, err);
}

int
logbook_begin(struct logbook *l, struct err *err)
{
	l->state = SWITCH_PLANNED;
	l->at[SWITCH_PLANNED] = switch_now();
	return logbook_write(l, err);
}

int
logbook_move(struct logbook *l, enum switch_state to, struct err *err)
{
	enum switch_state from = l->state;

	if (!switch_may_move(from, to))
		return err_set(err, ERR_FAILED, "a switchover cannot go from \"%s\" to \"%s\"", state_names[from],
		               state_names[to]);
	l->state = to;
	l->at[to] = switch_now();
	if (logbook_write(l, err) == 0)
		return 0;
	l->state = from;
	return -1;
}

int
logbook_finish(struct logbook *l, struct err *err)
{
	char path[PATH_MAX], last[PATH_MAX];

	return path_format(path, err, "%s/" FILE_NAME, l->keystore) != 0 ||
	               path_format(last, err, "%s/" LAST_NAME, l->keystore) != 0
	           ? -1
	           : durable_rename(path, last, err);
}

int
logbook_add_slot(struct logbook *l, const char *name, struct err *err)
{
	void *more = realloc(l->slots, (l->nslots + 1) * sizeof(*l->slots));

	if (more == NULL)
		return err_nomem(err);
	l->slots = more;
	if (!text_take(l->slots[l->nslots], sizeof(*l->slots), name))
		return err_set(err, ERR_FAILED, "the name of slot \"%s\" is too long", name);
	l->nslots++;
	return 0;
}

void
logbook_close(struct logbook *l)
{
	free(l->slots);
	l->slots = NULL;
	l->nslots = 0;
	if (l->lock >= 0)
		close(l->lock);
	l->lock = -1;
}
