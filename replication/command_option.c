/* command_option: the options of a command. */
#include <stdlib.h>
#include <string.h>

#include "replication/command.h"

const struct command_option *
command_option(const struct command *cmd, const char *name)
{
	for (size_t i = 0; i < cmd->noptions; i++)
		if (strcmp(cmd->options[i].name, name) == 0)
			return &cmd->options[i];
	return NULL;
}

int
command_add_option(struct command *cmd, const char *name, enum command_value kind, const char *value, struct err *err)
{
	struct command_option option = {.kind = kind}, *grown;

	if (cmd->noptions == COMMAND_MAX_OPTIONS) {
		err_set(err, ERR_FAILED, "replication command has more than %d options", COMMAND_MAX_OPTIONS);
		return err_sqlstate(err, "42601");
	}
	if ((option.name = strdup(name)) == NULL || (value != NULL && (option.value = strdup(value)) == NULL) ||
	    (grown = realloc(cmd->options, (cmd->noptions + 1) * sizeof(*grown))) == NULL) {
		free(option.name);
		free(option.value);
		return err_nomem(err);
	}
	cmd->options = grown;
	cmd->options[cmd->noptions++] = option;
	return 0;
}

int
command_set_option(struct command *cmd, const char *name, enum command_value kind, const char *value, struct err *err)
{
	struct command_option *option = (struct command_option *)command_option(cmd, name);
	char *copy = NULL;

	if (option == NULL)
		return command_add_option(cmd, name, kind, value, err);
	if (value != NULL && (copy = strdup(value)) == NULL)
		return err_nomem(err);
	free(option->value);
	option->value = copy;
	option->kind = kind;
	return 0;
}

void
command_drop_option(struct command *cmd, const char *name)
{
	struct command_option *option = (struct command_option *)command_option(cmd, name);

	if (option == NULL)
		return;
	free(option->name);
	free(option->value);
	*option = cmd->options[--cmd->noptions];
}
