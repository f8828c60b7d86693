#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replication/buffer.h"
#include "replication/command.h"
#include "walcrypt/pgfile.h"

/* More than any command that the parser takes can need: each byte doubled. */
#define TEXT_MAX (4 * 65536)

static bool
is_plain(const char *name)
{
	if (!((name[0] >= 'a' && name[0] <= 'z') || name[0] == '_'))
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

/* Quoted always: a slot may be called as a keyword of some later version is. The scanner knows no quote inside quotes,
 * so none comes in. */
static void
put_name(struct buffer *b, const char *name)
{
	buffer_put_text(b, "\"");
	buffer_put_text(b, name);
	buffer_put_text(b, "\"");
}

/* a.b was joined by the parser; each part is written by itself. */
static void
put_dotted(struct buffer *b, const char *name)
{
	for (const char *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
		buffer_put_text(b, "\"");
		buffer_put(b, name, (size_t)(dot - name));
		buffer_put_text(b, "\".");
	}
	put_name(b, name);
}

static void
put_string(struct buffer *b, const char *text)
{
	buffer_put_text(b, "'");
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			buffer_put_text(b, "'");
		buffer_put_u8(b, (uint8_t)*text);
	}
	buffer_put_text(b, "'");
}

static void
put_options(struct buffer *b, const struct command *cmd)
{
	for (size_t i = 0; i < cmd->noptions; i++) {
		const struct command_option *option = &cmd->options[i];

		buffer_put_text(b, i == 0 ? " (" : ", ");
		if (is_plain(option->name))
			buffer_put_text(b, option->name);
		else
			put_name(b, option->name);
		if (option->kind == COMMAND_VALUE_NONE)
			continue;
		buffer_put_text(b, " ");
		if (option->kind == COMMAND_VALUE_STRING)
			put_string(b, option->value);
		else if (option->kind == COMMAND_VALUE_WORD)
			put_name(b, option->value);
		else
			buffer_put_text(b, option->value);
	}
	if (cmd->noptions > 0)
		buffer_put_text(b, ")");
}

static void
put_start(struct buffer *b, const struct command *cmd)
{
	char lsn[LSN_TEXT_LEN], timeline[32];

	if (cmd->name != NULL) {
		buffer_put_text(b, " SLOT ");
		put_name(b, cmd->name);
	}
	lsn_format(lsn, cmd->lsn);
	buffer_put_text(b, " PHYSICAL ");
	buffer_put_text(b, lsn);
	if (cmd->timeline != 0) {
		snprintf(timeline, sizeof(timeline), " TIMELINE %u", (unsigned)cmd->timeline);
		buffer_put_text(b, timeline);
	}
}

static void
put_arguments(struct buffer *b, const struct command *cmd)
{
	char timeline[16];

	switch (cmd->kind) {
	case COMMAND_SHOW:
	case COMMAND_READ_SLOT:
		buffer_put_text(b, " ");
		put_dotted(b, cmd->name);
		return;
	case COMMAND_TIMELINE_HISTORY:
		snprintf(timeline, sizeof(timeline), " %u", (unsigned)cmd->timeline);
		buffer_put_text(b, timeline);
		return;
	case COMMAND_CREATE_SLOT:
		buffer_put_text(b, " ");
		put_name(b, cmd->name);
		buffer_put_text(b, cmd->temporary ? " TEMPORARY" : "");
		buffer_put_text(b, cmd->logical ? " LOGICAL " : " PHYSICAL");
		if (cmd->logical)
			put_name(b, cmd->plugin);
		put_options(b, cmd);
		return;
	case COMMAND_DROP_SLOT:
		buffer_put_text(b, " ");
		put_name(b, cmd->name);
		buffer_put_text(b, cmd->wait ? " WAIT" : "");
		return;
	case COMMAND_ALTER_SLOT:
		buffer_put_text(b, " ");
		put_name(b, cmd->name);
		put_options(b, cmd);
		return;
	case COMMAND_START_PHYSICAL:
		put_start(b, cmd);
		return;
	case COMMAND_BASE_BACKUP:
		put_options(b, cmd);
		return;
	default:
		return;
	}
}

int
command_write(const struct command *cmd, char **out, struct err *err)
{
	struct buffer b;

	*out = NULL;
	if (cmd->kind == COMMAND_EMPTY || cmd->kind == COMMAND_SQL || cmd->kind == COMMAND_START_LOGICAL)
		return err_set(err, ERR_REFUSED, "%s is not passed on to the upstream",
		               cmd->kind == COMMAND_START_LOGICAL ? "logical replication" : "what is no replication command");
	buffer_init(&b, TEXT_MAX);
	buffer_put_text(&b, command_name(cmd->kind));
	put_arguments(&b, cmd);
	buffer_put_u8(&b, 0);
	if (buffer_check(&b, err) != 0) {
		buffer_free(&b);
		return -1;
	}
	if ((*out = strdup((const char *)buffer_data(&b))) == NULL)
		err_nomem(err);
	buffer_free(&b);
	return *out != NULL ? 0 : -1;
}
