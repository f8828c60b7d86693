/*
 * console: what the administrator may ask on database "walcrypt": the SHOWs of shows.h for admin_users and stats_users,
 * RELOAD, SHUTDOWN and what console_pause.c has for admin_users. All columns are text.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/reload.h"
#include "proxy/session_intern.h"
#include "proxy/shows.h"

static void
done(struct session *s, int rc, const char *tag, struct err *err)
{
	if (rc != 0 || message_command_complete(&s->out, tag, err) != 0)
		session_drop(s, err);
	else
		session_ready(s);
}

/* Takes the table. */
static void
answer(struct session *s, struct table *t)
{
	struct message_field fields[TABLE_COLUMNS_MAX];
	struct message_value values[TABLE_COLUMNS_MAX];
	struct err err = {0};
	int rc;

	for (size_t i = 0; i < t->columns; i++)
		fields[i] = (struct message_field){t->names[i], 25, -1};
	rc = message_row_description(&s->out, fields, t->columns, &err);
	for (size_t row = 0; rc == 0 && row < table_rows(t); row++) {
		for (size_t i = 0; i < t->columns; i++) {
			const char *cell = table_cell(t, row, i);

			values[i] = (struct message_value){cell, cell == NULL ? -1 : (int32_t)strlen(cell)};
		}
		rc = message_data_row(&s->out, values, t->columns, &err);
	}
	table_free(t);
	done(s, rc, "SHOW", &err);
}

static void
show(struct session *s, const struct show *what)
{
	/* of now, not of when this session began */
	struct site *site = proxy_site(s->proxy);
	struct table t;
	struct err err = {0};
	int rc = show_make(what, &t, s->proxy, site, &err);

	site_unref(site);
	if (rc == 0)
		answer(s, &t);
	else {
		table_free(&t);
		session_drop(s, &err);
	}
}

void
console_done(struct session *s, const char *tag)
{
	struct err err = {0};

	done(s, 0, tag, &err);
}

static int
look_for_reload(struct session *s, void *arg, struct err *err)
{
	const unsigned *number = arg;
	int rc;

	return !reload_over(s->proxy->reload, *number, &rc, err) ? 0 : rc == 0 ? 1 : -1;
}

static void
reload(struct session *s, const char *rest)
{
	unsigned *number = malloc(sizeof(*number));
	struct err err = {0};

	(void)rest;
	if (number == NULL) {
		err_nomem(&err);
		session_refuse(s, &err);
		return;
	}
	*number = reload_ask(s->proxy->reload);
	console_wait(s, "RELOAD", look_for_reload, number, free);
}

static void
stop(struct session *s, const char *rest)
{
	(void)rest;
	s->proxy->ask_stop(s->proxy);
	console_done(s, "SHUTDOWN");
}

/* What changes something: for admin_users. */
static const struct {
	const char *word;
	bool names; /* may follow */
	void (*run)(struct session *s, const char *rest);
	const char *help;
} commands[] = {
    {"PAUSE", true, console_pause, "hold new sessions, of all or of one; PAUSE EXCEPT a, b: of all but these"},
    {"RESUME", true, console_resume, "let them go on, all or those of one"},
    {"WAIT_CLOSE", true, console_wait_close, "wait until none is served but those held; names as for PAUSE"},
    {"RELOAD", false, reload, "read the configuration, the keysets and the certificates again"},
    {"SHUTDOWN", false, stop, "let commands under way finish, end all sessions and the proxy"},
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static void
show_help(struct session *s)
{
	struct table t;
	struct err err = {0};
	const struct show *what;

	table_init(&t, (const char *const[]){"query", "description", NULL});
	for (size_t i = 0; (what = show_at(i)) != NULL; i++) {
		table_print(&t, "SHOW %s", what->name);
		table_text(&t, what->help);
	}
	table_text(&t, "SHOW HELP");
	table_text(&t, "this");
	for (size_t i = 0; i < NCOMMANDS; i++) {
		table_text(&t, commands[i].word);
		table_text(&t, commands[i].help);
	}
	if (table_check(&t, &err) == 0)
		answer(s, &t);
	else {
		table_free(&t);
		session_drop(s, &err);
	}
}

/* Upper case, one blank between words, no semicolon at the end. */
static void
normalise(const char *text, char *out, size_t len)
{
	size_t used = 0;

	for (; *text != '\0' && used + 1 < len; text++) {
		if (isspace((unsigned char)*text) || *text == ';') {
			if (used > 0 && out[used - 1] != ' ')
				out[used++] = ' ';
		} else
			out[used++] = (char)toupper((unsigned char)*text);
	}
	while (used > 0 && out[used - 1] == ' ')
		used--;
	out[used] = '\0';
}

/* false: there is no such command. */
static bool
command(struct session *s, const char *query)
{
	struct err err = {0};

	for (size_t i = 0; i < NCOMMANDS; i++) {
		size_t len = strlen(commands[i].word);
		const char *rest = query + len;

		if (strncmp(query, commands[i].word, len) != 0 || (*rest != '\0' && (*rest != ' ' || !commands[i].names)))
			continue;
		if (s->admin) {
			commands[i].run(s, *rest == ' ' ? rest + 1 : rest);
			return true;
		}
		err_set(&err, ERR_REFUSED, "user \"%s\" may look at the console, not change anything", s->startup.user);
		err_sqlstate(&err, "42501");
		err_hint(&err, "List the user in admin_users.");
		session_refuse(s, &err);
		return true;
	}
	return false;
}

void
console_query(struct session *s, const char *text)
{
	const struct show *what;
	char query[1024];
	struct err err = {0};

	/* one that is longer is none of ours: it must not be understood by half */
	normalise(strlen(text) < sizeof(query) ? text : "?", query, sizeof(query));
	if (strcmp(query, "SHOW HELP") == 0)
		show_help(s);
	else if (strncmp(query, "SHOW ", 5) == 0 && (what = show_find(query + 5)) != NULL)
		show(s, what);
	else if (query[0] == '\0') {
		if (message_empty_query(&s->out, &err) != 0)
			session_drop(s, &err);
		else
			session_ready(s);
	} else if (!command(s, query)) {
		err_set(&err, ERR_REFUSED, "unknown query on walcrypt's console");
		err_sqlstate(&err, "42601");
		err_hint(&err, "SHOW HELP lists what there is.");
		session_refuse(s, &err);
	}
}
