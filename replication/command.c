#include "replication/command.h"

#include <stdlib.h>
#include <string.h>

#include "replication/command_scan.h"

void
command_free(struct command *cmd)
{
	for (size_t i = 0; i < cmd->noptions; i++) {
		free(cmd->options[i].name);
		free(cmd->options[i].value);
	}
	free(cmd->options);
	free(cmd->name);
	free(cmd->plugin);
	memset(cmd, 0, sizeof(*cmd));
}

static int
take_text(struct command_scan *s, enum command_token token, char **to, struct err *err)
{
	if (s->token != token)
		return command_scan_error(s, err);
	if ((*to = strdup(s->text)) == NULL)
		return err_nomem(err);
	return command_scan_next(s, err);
}

static int
take_sign(struct command_scan *s, char sign, struct err *err)
{
	if (s->token != TOKEN_SIGN || s->sign != sign)
		return command_scan_error(s, err);
	return command_scan_next(s, err);
}

/* 1: the keyword was there and is taken; 0: it was not; -1. */
static int
take_keyword(struct command_scan *s, const char *keyword, struct err *err)
{
	if (!command_scan_is(s, keyword))
		return 0;
	return command_scan_next(s, err) == 0 ? 1 : -1;
}

static int
take_timeline(struct command_scan *s, uint32_t *timeline, struct err *err)
{
	if (s->token != TOKEN_NUMBER)
		return command_scan_error(s, err);
	if (s->number == 0) {
		err_set(err, ERR_FAILED, "invalid timeline 0");
		return err_sqlstate(err, "42601");
	}
	*timeline = s->number;
	return command_scan_next(s, err);
}

/* A dot may stand within quotes: what has nothing between two dots names nothing, and could not be written again. */
static bool
has_empty_part(const char *name)
{
	size_t len = strlen(name);

	return name[0] == '.' || (len > 0 && name[len - 1] == '.') || strstr(name, "..") != NULL;
}

/* name [. name]... */
static int
parse_dotted(struct command_scan *s, char **name, struct err *err)
{
	if (take_text(s, TOKEN_NAME, name, err) != 0)
		return -1;
	while (s->token == TOKEN_SIGN && s->sign == '.') {
		size_t len = strlen(*name);
		char *grown;

		if (command_scan_next(s, err) != 0)
			return -1;
		if (s->token != TOKEN_NAME)
			return command_scan_error(s, err);
		if ((grown = realloc(*name, len + strlen(s->text) + 2)) == NULL)
			return err_nomem(err);
		*name = grown;
		grown[len] = '.';
		memcpy(grown + len + 1, s->text, strlen(s->text) + 1);
		if (command_scan_next(s, err) != 0)
			return -1;
	}
	if (has_empty_part(*name)) {
		err_set(err, ERR_FAILED, "invalid name \"%.80s\"", *name);
		return err_sqlstate(err, "42601");
	}
	return 0;
}

/* The present word as the option's value, when it can be one. */
static int
parse_value(struct command_scan *s, struct command *cmd, const char *name, struct err *err)
{
	char *value;
	size_t len;
	int rc;

	if (s->token == TOKEN_NAME)
		rc = command_add_option(cmd, name, COMMAND_VALUE_WORD, s->text, err);
	else if (s->token == TOKEN_STRING)
		rc = command_add_option(cmd, name, COMMAND_VALUE_STRING, s->text, err);
	else if (s->token == TOKEN_NUMBER) {
		len = s->raw_len;
		if ((value = strndup(s->raw, len)) == NULL)
			return err_nomem(err);
		rc = command_add_option(cmd, name, COMMAND_VALUE_NUMBER, value, err);
		free(value);
	} else
		return command_add_option(cmd, name, COMMAND_VALUE_NONE, NULL, err);
	return rc == 0 ? command_scan_next(s, err) : -1;
}

/* ( name [value], ... ), the opening parenthesis already taken; a keyword as a name is its lower-case word. */
static int
parse_options(struct command_scan *s, struct command *cmd, struct err *err)
{
	char name[COMMAND_NAME_MAX + 1];

	for (;;) {
		if (s->token != TOKEN_NAME && s->token != TOKEN_KEYWORD)
			return command_scan_error(s, err);
		memset(name, 0, sizeof(name));
		for (size_t i = 0; s->text[i] != '\0' && i < sizeof(name) - 1; i++)
			name[i] = s->token == TOKEN_KEYWORD && s->text[i] >= 'A' && s->text[i] <= 'Z' ? (char)(s->text[i] | 0x20)
			                                                                              : s->text[i];
		if (command_scan_next(s, err) != 0 || parse_value(s, cmd, name, err) != 0)
			return -1;
		if (s->token != TOKEN_SIGN || s->sign != ',')
			return take_sign(s, ')', err);
		if (command_scan_next(s, err) != 0)
			return -1;
	}
}

/* The words that older clients put behind a command without parentheses, and the options that they became. */
struct legacy {
	const char *word, *name;
	enum command_value kind; /* NONE with value: the option's value is fixed; else the next word is the value */
	const char *value;
};
static const struct legacy slot_legacy[] = {{"EXPORT_SNAPSHOT", "snapshot", COMMAND_VALUE_NONE, "export"},
                                            {"NOEXPORT_SNAPSHOT", "snapshot", COMMAND_VALUE_NONE, "nothing"},
                                            {"USE_SNAPSHOT", "snapshot", COMMAND_VALUE_NONE, "use"},
                                            {"RESERVE_WAL", "reserve_wal", COMMAND_VALUE_NONE, NULL},
                                            {"TWO_PHASE", "two_phase", COMMAND_VALUE_NONE, NULL},
                                            {NULL, NULL, COMMAND_VALUE_NONE, NULL}};
static const struct legacy backup_legacy[] = {{"label", "label", COMMAND_VALUE_STRING, NULL},
                                              {"progress", "progress", COMMAND_VALUE_NONE, NULL},
                                              {"fast", "checkpoint", COMMAND_VALUE_NONE, "fast"},
                                              {"wal", "wal", COMMAND_VALUE_NONE, NULL},
                                              {"nowait", "wait", COMMAND_VALUE_NONE, "false"},
                                              {"max_rate", "max_rate", COMMAND_VALUE_NUMBER, NULL},
                                              {"tablespace_map", "tablespace_map", COMMAND_VALUE_NONE, NULL},
                                              {"noverify_checksums", "verify_checksums", COMMAND_VALUE_NONE, "false"},
                                              {"manifest", "manifest", COMMAND_VALUE_STRING, NULL},
                                              {"manifest_checksums", "manifest_checksums", COMMAND_VALUE_STRING, NULL},
                                              {NULL, NULL, COMMAND_VALUE_NONE, NULL}};

static int
parse_legacy(struct command_scan *s, struct command *cmd, const struct legacy *known, struct err *err)
{
	while (s->token == TOKEN_NAME || s->token == TOKEN_KEYWORD) {
		const struct legacy *l = known;

		while (l->word != NULL && strcmp(l->word, s->text) != 0)
			l++;
		if (l->word == NULL)
			return command_scan_error(s, err);
		if (command_scan_next(s, err) != 0)
			return -1;
		if (l->kind == COMMAND_VALUE_NONE) {
			if (command_add_option(cmd, l->name, l->value != NULL ? COMMAND_VALUE_STRING : COMMAND_VALUE_NONE, l->value,
			                       err) != 0)
				return -1;
			continue;
		}
		if (s->token != (l->kind == COMMAND_VALUE_NUMBER ? TOKEN_NUMBER : TOKEN_STRING))
			return command_scan_error(s, err);
		if (parse_value(s, cmd, l->name, err) != 0)
			return -1;
	}
	return 0;
}

static int
parse_tail(struct command_scan *s, struct command *cmd, const struct legacy *known, struct err *err)
{
	if (s->token == TOKEN_SIGN && s->sign == '(')
		return command_scan_next(s, err) != 0 ? -1 : parse_options(s, cmd, err);
	return parse_legacy(s, cmd, known, err);
}

static int
parse_create(struct command_scan *s, struct command *cmd, struct err *err)
{
	int taken;

	if (take_text(s, TOKEN_NAME, &cmd->name, err) != 0 || (taken = take_keyword(s, "TEMPORARY", err)) < 0)
		return -1;
	cmd->temporary = taken == 1;
	if ((taken = take_keyword(s, "PHYSICAL", err)) < 0)
		return -1;
	if (taken == 0) {
		if ((taken = take_keyword(s, "LOGICAL", err)) <= 0)
			return taken == 0 ? command_scan_error(s, err) : -1;
		cmd->logical = true;
		if (take_text(s, TOKEN_NAME, &cmd->plugin, err) != 0)
			return -1;
	}
	return parse_tail(s, cmd, slot_legacy, err);
}

static int
parse_start(struct command_scan *s, struct command *cmd, struct err *err)
{
	int taken;

	if ((taken = take_keyword(s, "SLOT", err)) < 0 || (taken == 1 && take_text(s, TOKEN_NAME, &cmd->name, err) != 0))
		return -1;
	if (cmd->name != NULL && command_scan_is(s, "LOGICAL")) {
		cmd->kind = COMMAND_START_LOGICAL;
		cmd->logical = true;
	}
	if ((cmd->logical || command_scan_is(s, "PHYSICAL")) && command_scan_next(s, err) != 0)
		return -1;
	if (s->token != TOKEN_LSN)
		return command_scan_error(s, err);
	cmd->lsn = s->lsn;
	if (command_scan_next(s, err) != 0)
		return -1;
	if (cmd->logical)
		return s->token == TOKEN_SIGN && s->sign == '(' ? parse_tail(s, cmd, slot_legacy, err) : 0;
	if ((taken = take_keyword(s, "TIMELINE", err)) <= 0)
		return taken;
	return take_timeline(s, &cmd->timeline, err);
}

static int
parse_drop(struct command_scan *s, struct command *cmd, struct err *err)
{
	int taken;

	if (take_text(s, TOKEN_NAME, &cmd->name, err) != 0 || (taken = take_keyword(s, "WAIT", err)) < 0)
		return -1;
	cmd->wait = taken == 1;
	return 0;
}

static int
parse_alter(struct command_scan *s, struct command *cmd, struct err *err)
{
	if (take_text(s, TOKEN_NAME, &cmd->name, err) != 0 || take_sign(s, '(', err) != 0)
		return -1;
	return parse_options(s, cmd, err);
}

static int
parse_name(struct command_scan *s, struct command *cmd, struct err *err)
{
	return parse_dotted(s, &cmd->name, err);
}

static int
parse_history(struct command_scan *s, struct command *cmd, struct err *err)
{
	return take_timeline(s, &cmd->timeline, err);
}

static int
parse_backup(struct command_scan *s, struct command *cmd, struct err *err)
{
	return parse_tail(s, cmd, backup_legacy, err);
}

static int
parse_nothing(struct command_scan *s, struct command *cmd, struct err *err)
{
	(void)s;
	(void)cmd;
	(void)err;
	return 0;
}

static const struct {
	const char *name;
	enum command_kind kind;
	int (*parse)(struct command_scan *, struct command *, struct err *);
} grammar[] = {
    {"IDENTIFY_SYSTEM", COMMAND_IDENTIFY_SYSTEM, parse_nothing},
    {"SHOW", COMMAND_SHOW, parse_name},
    {"TIMELINE_HISTORY", COMMAND_TIMELINE_HISTORY, parse_history},
    {"CREATE_REPLICATION_SLOT", COMMAND_CREATE_SLOT, parse_create},
    {"DROP_REPLICATION_SLOT", COMMAND_DROP_SLOT, parse_drop},
    {"READ_REPLICATION_SLOT", COMMAND_READ_SLOT, parse_name},
    {"ALTER_REPLICATION_SLOT", COMMAND_ALTER_SLOT, parse_alter},
    {"START_REPLICATION", COMMAND_START_PHYSICAL, parse_start},
    {"START_REPLICATION", COMMAND_START_LOGICAL, parse_start},
    {"BASE_BACKUP", COMMAND_BASE_BACKUP, parse_backup},
    {"UPLOAD_MANIFEST", COMMAND_UPLOAD_MANIFEST, parse_nothing},
};

const char *
command_name(enum command_kind kind)
{
	for (size_t i = 0; i < sizeof(grammar) / sizeof(grammar[0]); i++)
		if (grammar[i].kind == kind)
			return grammar[i].name;
	return kind == COMMAND_SQL ? "SQL" : "";
}

/* What must not be cut by repl_scanner.l, for its first word is none of its own: no more than that word is looked at.
 */
static int
parse_other(struct command_scan *s, struct command *cmd)
{
	cmd->kind = COMMAND_SQL;
	if (s->token == TOKEN_END)
		cmd->kind = COMMAND_EMPTY;
	else if (s->token == TOKEN_SIGN && s->sign == ';') {
		const char *p = s->at;

		while (p < s->end && (*p == ';' || *p == ' ' || *p == '\t' || *p == '\n' || *p == '\r' || *p == '\f'))
			p++;
		if (p == s->end)
			cmd->kind = COMMAND_EMPTY;
	}
	return 0;
}

static int
parse_command(struct command_scan *s, struct command *cmd, struct err *err)
{
	size_t i = 0, n = sizeof(grammar) / sizeof(grammar[0]);

	while (i < n && !command_scan_is(s, grammar[i].name))
		i++;
	if (i == n)
		return parse_other(s, cmd);
	cmd->kind = grammar[i].kind;
	if (command_scan_next(s, err) != 0 || grammar[i].parse(s, cmd, err) != 0)
		return -1;
	if (s->token == TOKEN_SIGN && s->sign == ';' && command_scan_next(s, err) != 0)
		return -1;
	return s->token == TOKEN_END ? 0 : command_scan_error(s, err);
}

int
command_parse(const char *text, size_t len, struct command *cmd, struct err *err)
{
	struct command_scan s;
	int rc;

	memset(cmd, 0, sizeof(*cmd));
	if (command_scan_init(&s, text, len, err) != 0)
		return -1;
	rc = parse_command(&s, cmd, err);
	command_scan_free(&s);
	if (rc != 0)
		command_free(cmd);
	return rc;
}
